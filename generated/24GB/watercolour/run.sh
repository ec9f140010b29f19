#!/bin/sh
# Trains watercolour, plan 8ddd592028a99ce56cacaf98678b6a6ed2e8f2a0ff932fc0a75f5ff3f6781d3d.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/watercolour/plan.json "$@"
