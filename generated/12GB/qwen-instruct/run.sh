#!/bin/sh
# Trains qwen-instruct, plan e252a673654c6edf4618c9e6e44c22c50e8b9fb84463f840679725c8698d569f.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/qwen-instruct/plan.json "$@"
