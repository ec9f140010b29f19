#!/bin/sh
# Trains linocut, plan 098f48645ec0a3eddc090a0e3349f38e50d8fb01384e0ab6260f6e19858451c3.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/linocut/plan.json "$@"
