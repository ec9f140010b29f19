#!/bin/sh
# Trains engraving, plan f2811ecd361c2e8597d111bf7cf7a9421cd2749d84cdc4e09957d59046ae39d1.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/engraving/plan.json "$@"
