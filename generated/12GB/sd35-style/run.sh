#!/bin/sh
# Trains sd35-style, plan 5c029e57fd7b0e16f29feaf412f2dfa74086d4c167a936ff0b27952b08350f27.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/sd35-style/plan.json "$@"
