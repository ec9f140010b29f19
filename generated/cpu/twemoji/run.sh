#!/bin/sh
# Trains twemoji, plan 7644e42e9393f78f3fb73e4ec99b88773898d8f5956b376e3b9641eb314dbf7c.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
