#!/bin/sh
# Trains qwen-instruct, plan c397d10845148bad3a2d7a6dfada1c9197224437a111cea39d7bbc932614ad8f.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/qwen-instruct/plan.json "$@"
