#!/bin/sh
# Trains sd35-style, plan 8c5bd0092d4efa7ef216b747955537f0d11803ac6d8d016a4126790739683271.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/sd35-style/plan.json "$@"
