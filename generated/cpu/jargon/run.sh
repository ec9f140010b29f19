#!/bin/sh
# Trains jargon, plan eccc8a76d3dab9143ffebd69c5d72065a90b003e94149230c0d2ea3193e2c093.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/jargon/plan.json "$@"
