#!/bin/sh
# Trains waves, plan 6afc6844546f5712635bcd35c6e7e175e856d2bc95b67cbc513cbfd4e0d47bd9.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/waves/plan.json "$@"
