#!/bin/sh
# Trains cyberpunk, plan 8dc91d4638fd4352d1f80ad860d56104bec449072d4d2ca4ae5832069851e766.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/cyberpunk/plan.json "$@"
