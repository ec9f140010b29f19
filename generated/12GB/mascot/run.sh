#!/bin/sh
# Trains mascot, plan 0abb74d0b4c686c27056cd7b1a5a0430e8b32e68a6e2549eda0b26ef0ca9dfa6.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/mascot/plan.json "$@"
