#!/bin/sh
# Trains twemoji, plan 4938499d8d03e7352298db0ba7f4bcb2da15cf3ef4459068a864a159ec8d5b28.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
