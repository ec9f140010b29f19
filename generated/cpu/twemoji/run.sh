#!/bin/sh
# Trains twemoji, plan e53948a29b9a9f4f3054285ceced757555ba468514a7b4c83071bd95c0d1a9a5.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
