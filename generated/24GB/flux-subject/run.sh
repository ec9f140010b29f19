#!/bin/sh
# Trains flux-subject, plan 5347c5220941ebf7c64115ef6941f0c0db5d009c1bfe560b2ee999298dff69d6.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/flux-subject/plan.json "$@"
