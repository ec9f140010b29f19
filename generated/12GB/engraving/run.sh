#!/bin/sh
# Trains engraving, plan a16bdf59298b467726d78433192c05aaf6f95a34305e2357225891e487a2e62f.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/engraving/plan.json "$@"
