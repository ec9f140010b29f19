#!/bin/sh
# Trains cyberpunk, plan de13a98c65f9e54d16c693418b8cfd3b4d335e210693db8882cc6bb15a44c3d5.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/cyberpunk/plan.json "$@"
