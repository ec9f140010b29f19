#!/bin/sh
# Trains watercolour, plan 05c8cbc4bd9a8d82ce9946a69668587155e16d6d4838dcf4c38b113697c509b6.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/watercolour/plan.json "$@"
