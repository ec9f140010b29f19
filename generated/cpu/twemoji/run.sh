#!/bin/sh
# Trains twemoji, plan 4aec00c890261574d95efc91ee090d296b86593111fb4ce0378090f9cfeab506.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
