#!/bin/sh
# Trains flux-subject, plan 8ffef0ae480f2b3388472a49700cdef277bcad32bf056ea49abc604cd0d7cd63.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/flux-subject/plan.json "$@"
