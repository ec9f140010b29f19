#!/bin/sh
# Trains waves, plan cf752ec9e5f3dadade381c4c5b51143acff5c4d4ebaee4993e3988d5a6ab95d3.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/waves/plan.json "$@"
