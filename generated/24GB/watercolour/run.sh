#!/bin/sh
# Trains watercolour, plan 83e6b500c718213c34c4569d16d291cb1a8e4fb68fb2d74a0459dfe580295500.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/watercolour/plan.json "$@"
