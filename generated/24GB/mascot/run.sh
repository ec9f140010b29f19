#!/bin/sh
# Trains mascot, plan 5994dc94ef2f8b59192175e2fa0d50df8058163be9cacb698943a4914ede97db.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/mascot/plan.json "$@"
