#!/bin/sh
# Trains qwen-instruct, plan be35aa15cec7181b811682bfe48116f129f6877bd92687605a2ed4e603556d80.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/qwen-instruct/plan.json "$@"
