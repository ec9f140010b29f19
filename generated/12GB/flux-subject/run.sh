#!/bin/sh
# Trains flux-subject, plan 6f20477254997bbd1185e4a4edc2fa41450f277d827a322a50061df3e59ff769.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/flux-subject/plan.json "$@"
