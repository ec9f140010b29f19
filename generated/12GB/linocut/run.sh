#!/bin/sh
# Trains linocut, plan c8ac771f2d79d74e9693eab8c7d1ddeb888c4d8494c118168eefedb3bbcf062f.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/linocut/plan.json "$@"
