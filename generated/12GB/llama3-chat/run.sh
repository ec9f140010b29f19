#!/bin/sh
# Trains llama3-chat, plan 7c752b46b8f45b8c57467a4c5e1a52dad1ffa6148ffb64bce739d110c6a4d27e.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/llama3-chat/plan.json "$@"
