#!/bin/sh
# Trains twemoji, plan 78e533366a93ea6854ed03d8e0b25d98f522d2bae50a8b7a2151cefa8d29e97e.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
