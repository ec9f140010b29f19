#!/bin/sh
# Trains twemoji, plan ea577e912ecda144401302bea2ddcf0df7811a53f518b0bc5c3909afec1dd840.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
