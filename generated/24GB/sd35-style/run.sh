#!/bin/sh
# Trains sd35-style, plan b85c086e11138f50ac120dee369cb6bac90118aaadeeffdbc739fd107cef82de.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/sd35-style/plan.json "$@"
