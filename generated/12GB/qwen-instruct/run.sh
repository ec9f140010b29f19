#!/bin/sh
# Trains qwen-instruct, plan 721beef257579bafd87d2906fbe64dd206ce1d87cee74d329a298a1896e4aea2.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/qwen-instruct/plan.json "$@"
