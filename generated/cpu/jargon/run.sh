#!/bin/sh
# Trains jargon, plan 33b8c1eadc5b68801fb446a60603b919dc9bad1b8fa7a351a03254ddde0f5f63.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/jargon/plan.json "$@"
