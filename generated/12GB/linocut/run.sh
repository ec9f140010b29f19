#!/bin/sh
# Trains linocut, plan 1c4e2080caa2bef31befeee17dfd5d28c741426bd59406f005c0c6434fe1a372.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/linocut/plan.json "$@"
