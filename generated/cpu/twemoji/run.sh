#!/bin/sh
# Trains twemoji, plan a4bdfd4c3550b5d4b92b92ec3623f204eaa3fd7c06413f7036ae09ecf5785554.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
