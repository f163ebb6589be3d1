// SPDX-License-Identifier: GPL-2.0

#include <linux/kernel.h>

#include "helpers.h"

#define CREATE_TRACE_POINTS
#include "mgmt_trace.h"

/* Whether somebody listens: a branch that the kernel patches. */
bool mgmt_helper_is_traced(enum mgmt_trace_point point)
{
	switch (point) {
	case MGMT_TRACE_SEND:
		return trace_mgmt_send_enabled();
	case MGMT_TRACE_ROUTE:
		return trace_mgmt_route_enabled();
	case MGMT_TRACE_DELIVER:
		return trace_mgmt_deliver_enabled();
	case MGMT_TRACE_DROP:
		return trace_mgmt_drop_enabled();
	}
	return false;
}

void mgmt_helper_trace(enum mgmt_trace_point point, const struct mgmt_traced *message)
{
	switch (point) {
	case MGMT_TRACE_SEND:
		return trace_mgmt_send(message);
	case MGMT_TRACE_ROUTE:
		return trace_mgmt_route(message);
	case MGMT_TRACE_DELIVER:
		return trace_mgmt_deliver(message);
	case MGMT_TRACE_DROP:
		return trace_mgmt_drop(message);
	}
}
