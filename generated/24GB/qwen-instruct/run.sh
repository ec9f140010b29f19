#!/bin/sh
# Trains qwen-instruct, plan d75cf0f4a015bbaf87e6f81534401d9408d4fcc1894a5c6401fc7316ae050660.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/qwen-instruct/plan.json "$@"
