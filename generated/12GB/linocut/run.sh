#!/bin/sh
# Trains linocut, plan 2d90d3ca5e08f62c5b265ace861864c1f19a43b7b69ad716235170d450111b9f.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/linocut/plan.json "$@"
