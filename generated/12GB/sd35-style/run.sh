#!/bin/sh
# Trains sd35-style, plan a70b30e8b14629e3315fd4ede236c938c4c960bfc93f90eceebfb75602e0df4d.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/sd35-style/plan.json "$@"
