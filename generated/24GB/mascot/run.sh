#!/bin/sh
# Trains mascot, plan 1c6e21e5036311d77da0cfaa3feb1d23da36aaaaa22431b109f8c25d65b7e02d.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/mascot/plan.json "$@"
