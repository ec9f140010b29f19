#!/bin/sh
# Trains qwen-instruct, plan ebe4ebda3130ca9f086e8cf7e081f2e00080d0864437f2ede6be8a934ef80211.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/qwen-instruct/plan.json "$@"
