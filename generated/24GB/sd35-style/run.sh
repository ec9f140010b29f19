#!/bin/sh
# Trains sd35-style, plan c355e855b39a477e3ae682d623ae6c7d8cfee88c07330be4e65f4de69cdcb841.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/sd35-style/plan.json "$@"
