#!/bin/sh
# Trains watercolour, plan 0f8a9111948009388506d9101e69facf400484923a79933ce5025f7832241f4e.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/watercolour/plan.json "$@"
