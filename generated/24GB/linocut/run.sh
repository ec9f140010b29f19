#!/bin/sh
# Trains linocut, plan f6c144c06e4bee0934ab263eaf78cb870c595dbaab5708d422a7dc5e5c501038.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/linocut/plan.json "$@"
