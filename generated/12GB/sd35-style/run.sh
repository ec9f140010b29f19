#!/bin/sh
# Trains sd35-style, plan f1f65c91b44a67fe5025da471b945ab2259b785e7f70958b6f5af5c7783046ce.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/sd35-style/plan.json "$@"
