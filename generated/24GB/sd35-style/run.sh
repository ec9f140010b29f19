#!/bin/sh
# Trains sd35-style, plan 525ed9787e126353a0f4e8ab839d74807a3560bfd5ad8363d885622e11e8b261.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/sd35-style/plan.json "$@"
