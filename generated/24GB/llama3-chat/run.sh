#!/bin/sh
# Trains llama3-chat, plan b347621d3314734fb6c57b38482bf282fa51b5e118b1594f6407fad521df492d.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/llama3-chat/plan.json "$@"
