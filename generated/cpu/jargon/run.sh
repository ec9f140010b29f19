#!/bin/sh
# Trains jargon, plan 8ac7ba8e9e7f71514e0b76460e3faa0b239cac2257718cdfe74515bdc71e1a45.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/jargon/plan.json "$@"
