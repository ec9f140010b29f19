#!/bin/sh
# Trains cyberpunk, plan 59301780b702e4d1b9e67e54d9d2b78026c69a01932c562cf792524d83c9f588.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/cyberpunk/plan.json "$@"
