/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints: what becomes of each message. docs/uapi.md describes them. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM mgmt

#if !defined(_MGMT_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _MGMT_TRACE_H

#include <linux/tracepoint.h>
#include "helpers.h"

DECLARE_EVENT_CLASS(mgmt_message,
	TP_PROTO(const struct mgmt_traced *message),
	TP_ARGS(message),
	TP_STRUCT__entry(
		__string(source, message->source)
		__string(destination, message->destination)
		__string(account, message->account)
		__field(u8, kind)
		__field(u8, priority)
		__field(u16, flags)
		__field(u16, reason)
		__field(u32, length)
		__field(u64, sequence)
		__field(u64, correlation)
	),
	TP_fast_assign(
		__assign_str(source);
		__assign_str(destination);
		__assign_str(account);
		__entry->kind = message->kind;
		__entry->priority = message->priority;
		__entry->flags = message->flags;
		__entry->reason = message->reason;
		__entry->length = message->length;
		__entry->sequence = message->sequence;
		__entry->correlation = message->correlation;
	),
	TP_printk("source=%s destination=%s account=%s kind=%s priority=%u flags=%x length=%u sequence=%llu correlation=%llu reason=%u",
		  __get_str(source), __get_str(destination), __get_str(account),
		  __print_symbolic(__entry->kind,
				   { 1, "discover" }, { 2, "establish" }, { 3, "data" },
				   { 4, "terminate" }, { 5, "presence" }, { 6, "reply" },
				   { 7, "undeliverable" }),
		  __entry->priority, __entry->flags, __entry->length,
		  __entry->sequence, __entry->correlation, __entry->reason)
);

/* An endpoint's message was accepted. */
DEFINE_EVENT(mgmt_message, mgmt_send,
	TP_PROTO(const struct mgmt_traced *message), TP_ARGS(message));

/* The bridge has found the receiver: the account is the receiver's. */
DEFINE_EVENT(mgmt_message, mgmt_route,
	TP_PROTO(const struct mgmt_traced *message), TP_ARGS(message));

/* An endpoint has read it. */
DEFINE_EVENT(mgmt_message, mgmt_deliver,
	TP_PROTO(const struct mgmt_traced *message), TP_ARGS(message));

/* It is not delivered: the account is the sender's. */
DEFINE_EVENT(mgmt_message, mgmt_drop,
	TP_PROTO(const struct mgmt_traced *message), TP_ARGS(message));

#endif /* _MGMT_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE mgmt_trace
#include <trace/define_trace.h>
