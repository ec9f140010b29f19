#!/bin/sh
# Trains twemoji, plan 618960d9e4b0446fc03671723a27d5a7c71575096865baca9f4ea581a6c1827b.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
