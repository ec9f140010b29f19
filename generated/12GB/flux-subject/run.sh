#!/bin/sh
# Trains flux-subject, plan 03d1affee21d6c2b540f1b165a1000fd1de7fb2532d56e7b40ecb3df42c65b1b.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/flux-subject/plan.json "$@"
