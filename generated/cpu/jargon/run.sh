#!/bin/sh
# Trains jargon, plan 4e3686f91fca826d4a330aa9943ceaa5b23cd95baf97ab5e4b2f52fcea737c59.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/jargon/plan.json "$@"
