#!/bin/sh
# Trains waves, plan e5f0470cf7df99cfd205d52e941f20ac845b01c01183d3b5b131bfbed8b2f359.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/waves/plan.json "$@"
