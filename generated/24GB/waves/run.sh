#!/bin/sh
# Trains waves, plan 109814a60aee28342e2c8f2b7d8441cdf9460caeed7a4e5a541da591fbaaa4a9.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/waves/plan.json "$@"
