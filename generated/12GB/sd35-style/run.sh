#!/bin/sh
# Trains sd35-style, plan aa9ca603a9d59bea69a1badfc185d9fc4484adcd0d898b1665d54b8f0b0b4783.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/sd35-style/plan.json "$@"
