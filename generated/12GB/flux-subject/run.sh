#!/bin/sh
# Trains flux-subject, plan 37faa486ae8e1b8e8da5d7997eb7046d77444dc6928c3be3dc3d059d7f573eb8.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/flux-subject/plan.json "$@"
