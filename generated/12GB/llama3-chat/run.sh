#!/bin/sh
# Trains llama3-chat, plan e66362dfc4d647c1b2cac82cb55e7f693dd201cb0ab0505ec7144920c7e47cba.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/llama3-chat/plan.json "$@"
