#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# cycles.sh, a thousand times.

MGMT_CYCLES=${MGMT_CYCLES:-1000} exec "$(dirname "${BASH_SOURCE[0]}")/cycles.sh" "$@"
