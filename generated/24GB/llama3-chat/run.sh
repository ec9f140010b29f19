#!/bin/sh
# Trains llama3-chat, plan cf01591093569bfcaba0cce5f26064a3231637b0ab42f9b580e85a54bf63ffd0.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/llama3-chat/plan.json "$@"
