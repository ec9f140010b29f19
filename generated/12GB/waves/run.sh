#!/bin/sh
# Trains waves, plan 0a6af2e73fda013895217adabc5dd178bfa9b56aef8158ccf83423f22ca5d19a.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/waves/plan.json "$@"
