#!/bin/sh
# Trains twemoji, plan bb103502e416aab22628660d0ed32089d3cb9759776da15a88b971306ec296e8.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
