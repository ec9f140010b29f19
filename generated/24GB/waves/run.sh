#!/bin/sh
# Trains waves, plan d8fbde42b0872eeed6a278c0da890e8e1ac055a6178cfdbebf3c0a7dfc739052.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/waves/plan.json "$@"
