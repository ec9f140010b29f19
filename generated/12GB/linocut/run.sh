#!/bin/sh
# Trains linocut, plan 61e19ffee012f13a67b8931e84b0d5b01d03081abcd6b4683dad7ea2407b900e.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/linocut/plan.json "$@"
