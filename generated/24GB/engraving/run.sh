#!/bin/sh
# Trains engraving, plan 705d851d32695ca18e895248ac26d7546003063f48fbb689f4f6de91a74b5a3d.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/engraving/plan.json "$@"
