#!/bin/sh
# Trains qwen-instruct, plan a80f7d616b724264c0361c78c6155bc41b3251e8fac1c9abf80360cf91e04545.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/qwen-instruct/plan.json "$@"
