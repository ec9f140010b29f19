#!/bin/sh
# Trains watercolour, plan c22f79727dbbe6fb1dc6f4671f9116de48f59d2b30d9425e6113827b0ad3aa7f.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/watercolour/plan.json "$@"
