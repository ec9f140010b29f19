#!/bin/sh
# Trains llama3-chat, plan a413139803d2acbe9c5f8279f350b3aaa0ecbdfdbc53aa35949e8d4de9989f98.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/llama3-chat/plan.json "$@"
