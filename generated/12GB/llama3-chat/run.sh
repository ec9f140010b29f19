#!/bin/sh
# Trains llama3-chat, plan 1e26fb23a61033ab94283277fa807378e17a71353d38647e44dcd76b45ae9973.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/llama3-chat/plan.json "$@"
