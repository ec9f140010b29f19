#!/bin/sh
# Trains flux-subject, plan 384ae88b939e42a335006553c5e417840c596359e1b6d60471835fda23181639.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/flux-subject/plan.json "$@"
