#!/bin/sh
# Trains sd35-style, plan 21c12fe2edfac5456b624a91447ec80cf365cf38daf1b40de90995cadd6e5d05.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/sd35-style/plan.json "$@"
