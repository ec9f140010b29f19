#!/bin/sh
# Trains jargon, plan ce9fa63efa2ae51a7903c48f5ac0508aa619e2de717a1168b7a88948e1fdaa7e.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/jargon/plan.json "$@"
