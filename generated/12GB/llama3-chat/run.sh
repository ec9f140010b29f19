#!/bin/sh
# Trains llama3-chat, plan 9496f8fefd8b01e024441cd5576b155757a9a3cfcbe2068c660320f178fc9e72.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/llama3-chat/plan.json "$@"
