#!/bin/sh
# Trains cyberpunk, plan 21cf9f73c48acf5d88cf13d57ceeae396400389bfbeeeb7423f2b3ec7df27033.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/cyberpunk/plan.json "$@"
