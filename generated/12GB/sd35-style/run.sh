#!/bin/sh
# Trains sd35-style, plan f22b43dbf0f900fae8cc67cb3cbc239bfaee36eeff1a05aab116dcde66947a44.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/sd35-style/plan.json "$@"
