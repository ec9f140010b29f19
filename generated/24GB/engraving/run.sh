#!/bin/sh
# Trains engraving, plan 9e86f33230b197a4c258d87f022a846a25b23251c3e78e84e0b9a9b102acf08a.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/engraving/plan.json "$@"
