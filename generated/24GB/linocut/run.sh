#!/bin/sh
# Trains linocut, plan 87d42e076b781ddcb33c56257a30a934af06b8b62e8e5bdb8ddae812b29ef9c4.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/linocut/plan.json "$@"
