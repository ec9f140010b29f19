#!/bin/sh
# Trains cyberpunk, plan 9c8a23140021e6f3d507a2c59eb7736b9dc12961a30b0942a3a78f31a3ae3886.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/cyberpunk/plan.json "$@"
