#!/bin/sh
# Trains twemoji, plan 5b737a0f5b4f22700760a2911f353df62ce5d900392d52e44cb4ebd768a06934.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
