#!/bin/sh
# Trains cyberpunk, plan f0c1db9cd04e7e38fc0e083db0ec398b791670c1e554ffd513f67a8247a74835.
# `lorac plan` writes this file: edits are lost. It wants an environment that has lorac, or PYTHON=/path/to/its/python.
set -eu
cd "$(dirname "$0")"/../../..
exec "${PYTHON:-python3}" -P -m runtime generated/12GB/cyberpunk/plan.json "$@"
