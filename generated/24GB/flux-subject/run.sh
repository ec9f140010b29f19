#!/bin/sh
# Trains flux-subject, plan e9395c635b7efa129077aeba57689d943216938c0c6c6841fe7d3cb1c8dd9b4f.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/flux-subject/plan.json "$@"
