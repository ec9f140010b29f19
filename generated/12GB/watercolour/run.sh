#!/bin/sh
# Trains watercolour, plan ea5ca25118c857df9227e8139ce3ec2b173b0c0d9e66a0ddb1cedd4d2e4b7261.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/watercolour/plan.json "$@"
