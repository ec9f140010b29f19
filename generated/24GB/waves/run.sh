#!/bin/sh
# Trains waves, plan 3c363e8c716910980cac4b136c2ad0064fe6e194f19fb72e28b890b1d35ab623.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/waves/plan.json "$@"
