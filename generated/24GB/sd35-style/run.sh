#!/bin/sh
# Trains sd35-style, plan 347230b2452bbf804e2661bcd2eb45dc07b7706df73e00e722d6087b1243ade9.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/sd35-style/plan.json "$@"
