#!/bin/sh
# Trains flux-subject, plan e7c1222257ce365786f5afc115827937ff82bae9bdcad7644949d31a4e62ac8a.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/flux-subject/plan.json "$@"
