#!/bin/sh
# Trains cyberpunk, plan 81dc5d3eaf1898414b7308916ddeeaf57d217132b80cd839a99ea3f83ebcf769.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/cyberpunk/plan.json "$@"
