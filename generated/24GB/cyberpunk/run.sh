#!/bin/sh
# Trains cyberpunk, plan 398f6f84dad1cdc5b9fb249490f7a779f8b6f3caa6a29aac66472346c21be67c.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/cyberpunk/plan.json "$@"
