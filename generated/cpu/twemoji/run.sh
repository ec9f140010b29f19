#!/bin/sh
# Trains twemoji, plan 0cfe5821a10e05ffc1b671c301cf753d6af99f6cef6813d8428848f4d542219c.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
