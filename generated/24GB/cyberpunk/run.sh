#!/bin/sh
# Trains cyberpunk, plan e66b20f5d19fae575dcd4f282d006d4daa0a9dd60d3a78d1d884f91b4e658ab9.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/cyberpunk/plan.json "$@"
