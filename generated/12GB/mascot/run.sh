#!/bin/sh
# Trains mascot, plan 4c6113025c60c1c47b55dd4693214ee4b9768ca88c9a973d5c69811189b5b37c.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/mascot/plan.json "$@"
