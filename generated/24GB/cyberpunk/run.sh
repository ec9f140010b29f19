#!/bin/sh
# Trains cyberpunk, plan 7543d58b7e93f6ef20509f39b65cef73a5fb49eca83f8bb982fb391ede45bf76.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/24GB/cyberpunk/plan.json "$@"
