#!/bin/sh
# Trains watercolour, plan 37a4aa7fdb28b3938ae87e5cd99360961091778878368db727ad4c3f2f360183.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/watercolour/plan.json "$@"
