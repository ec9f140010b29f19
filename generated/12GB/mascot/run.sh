#!/bin/sh
# Trains mascot, plan ba9752c197b2345d09d006f73eb2de01f67b6aca0a8a0ad1c478a56cf08fc642.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/mascot/plan.json "$@"
