#!/bin/sh
# Trains mascot, plan 84b63fd2913d61bf9ce4c183fce00e42fc98d6d33f08acf9b75cca5fe5b683b4.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/mascot/plan.json "$@"
