#!/bin/sh
# Trains qwen-instruct, plan b9a350fa02bfed225f9f8e742a986fa41783d9b7ced102b6d8650652f5ec0307.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/qwen-instruct/plan.json "$@"
