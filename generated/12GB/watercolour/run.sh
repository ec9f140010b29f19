#!/bin/sh
# Trains watercolour, plan 4921947c0d50a59df700889e05b84d8cf73dae6a688b936484bf906940077abc.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/watercolour/plan.json "$@"
