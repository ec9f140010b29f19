#!/bin/sh
# Trains jargon, plan 42a8232176fe4b7e5a40177f1e55dd2832d735c2649c4569daa90d7a2320e62e.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/jargon/plan.json "$@"
