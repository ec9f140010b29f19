#!/bin/sh
# Trains llama3-chat, plan a0a4dcdf0634adf85ce28235cdc500a770615ee3b7313f842ebe8f836d47c122.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/llama3-chat/plan.json "$@"
