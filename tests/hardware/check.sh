#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks rvrt on this machine's accelerator against its CPU, in less than 8 minutes: see docs/devices.md.
#   check.sh [gpu|ascend] [FOLDER]      writes FOLDER/check.json and FOLDER/check.md, by default into check-results
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/../..:$here/..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" "$here/check.py" "${1:-gpu}" "${2:-check-results}"
