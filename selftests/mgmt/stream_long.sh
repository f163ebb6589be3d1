#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# stream.sh, with 100,000 messages each way.

MGMT_STREAM=${MGMT_STREAM:-100000} exec "$(dirname "${BASH_SOURCE[0]}")/stream.sh" "$@"
