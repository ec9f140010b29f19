#!/bin/sh
# Trains linocut, plan 55cf4410f5872ea859bdf593c38db9a432bee641b446383375533c7992c75851.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/linocut/plan.json "$@"
