#!/bin/sh
# Trains watercolour, plan ddaeb131f3015e4861f93d8ce2c4aee931cea038b5b9185ef05d8a0f71ea7077.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/watercolour/plan.json "$@"
