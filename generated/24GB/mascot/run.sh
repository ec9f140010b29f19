#!/bin/sh
# Trains mascot, plan 858db9097a6badb005b8c90ff1b4878e523996050a0390ff46cbc20f29c7b1b8.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/mascot/plan.json "$@"
