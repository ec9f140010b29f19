#!/bin/sh
# Trains jargon, plan bdc9012812159b101feec22ba1e4d9d951e03d62445113b9e41e38d56d886316.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/jargon/plan.json "$@"
