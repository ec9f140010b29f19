#!/bin/sh
# Trains waves, plan 819df31b5c56bb71fb1e2d96ff8cb8160ebaa59545ec2b6f8e984e7787c6e26f.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/waves/plan.json "$@"
