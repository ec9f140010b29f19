#!/bin/sh
# Trains twemoji, plan 528029fb8b22857f3efc3841917eaf73892b5de13acf96a304834afa9c41eeff.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/cpu/twemoji/plan.json "$@"
