#!/bin/sh
# Trains cyberpunk, plan 393c2b778dea5f04ac41510bb16d010c41c8beb7085e7352852a2f308d8f4eb4.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/cyberpunk/plan.json "$@"
