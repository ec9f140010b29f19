#!/bin/sh
# Trains mascot, plan bf15a0d5de4b2208150330aa98570b899a2484674d06a86e033b0c821c68eee9.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/mascot/plan.json "$@"
