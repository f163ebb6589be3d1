/* SPDX-License-Identifier: GPL-2.0 */
/*
 * mgmt.ko for other kernel modules: endpoints of the M-channel bridge. docs/kernel-api.md explains.
 *
 * Lifetime. An endpoint lives from mgmt_open() to mgmt_close(). Calls on one endpoint may overlap
 * in any way, but none may overlap mgmt_close(), or come after it. A module that uses these symbols
 * depends on mgmt.ko, which cannot be unloaded before it; it closes its endpoints when it exits.
 * mgmt_close() and mgmt_message_put() take NULL and error pointers, and do nothing with them.
 *
 * Context. "Any" means tasks and softirqs, with BHs or preemption disabled or not, spinlocks held or
 * not; not hard interrupts, and not with interrupts disabled. "Task" means that the call may sleep.
 *
 * Errors are negative errnos, those of write() and read() in docs/uapi.md, and what is said below.
 */
#ifndef _MGMT_H
#define _MGMT_H

#include <linux/err.h>
#include <linux/string.h>
#include <linux/types.h>
#include <uapi/mgmt.h>

struct mgmt_endpoint;
struct mgmt_message;

struct mgmt_ops {
	/*
	 * Takes a message, which it owns: mgmt_message_put(). @data is that of mgmt_open(). Called as a
	 * softirq, one call at a time, in the order of reading: it may send, and may not sleep, nor
	 * close the endpoint. It may be called before mgmt_open() has returned; never after
	 * mgmt_close() has.
	 */
	void (*receive)(struct mgmt_endpoint *endpoint, struct mgmt_message *message, void *data);
};

/*
 * Binds the App_ID @app in this domain. With @ops, messages go to its callback; without, they wait
 * for mgmt_receive(). @flags are MGMT_BIND_*. Returns the endpoint, or an error pointer. -ENODEV:
 * this is no Xen domain. Task.
 */
struct mgmt_endpoint *mgmt_open(const char *app, unsigned int flags, const struct mgmt_ops *ops,
				void *data);

/*
 * As mgmt_open(), but binds @app in the hardware component with the serial number @serial. In the
 * platform's management VM only: -EOPNOTSUPP in others.
 */
struct mgmt_endpoint *mgmt_open_hardware(const char *serial, const char *app, unsigned int flags,
					 const struct mgmt_ops *ops, void *data);

/*
 * Frees the App_ID and the endpoint. A callback that runs is waited for. What was not read goes back
 * to its senders. Task.
 */
void mgmt_close(struct mgmt_endpoint *endpoint);

/*
 * Sends a message: @header, of which the bridge stamps what include/uapi/mgmt.h says, and
 * header->length bytes of @payload, which are copied. Never waits: -EAGAIN when this sender's share
 * of the receiver's queue is used up. With @gfp that does not allow sleeping: any context, and
 * -EMSGSIZE for a payload of more than MGMT_MAX_ATOMIC bytes.
 *
 * The correlation of a request (MGMT_FLAG_REQUEST) must be below MGMT_CORRELATION_MAX: the others
 * are mgmt_request()'s.
 */
int mgmt_send(struct mgmt_endpoint *endpoint, const struct mgmt_header *header,
	      const void *payload, gfp_t gfp);

/* As mgmt_send(), but waits for room. -ERESTARTSYS when a signal comes first. Task. */
int mgmt_send_wait(struct mgmt_endpoint *endpoint, const struct mgmt_header *header,
		   const void *payload);

#define MGMT_CORRELATION_MAX	(1ULL << 63)
#define MGMT_MAX_ATOMIC		8192

/*
 * Sends a request and waits for its reply, which it returns, to be put: or an error pointer. The
 * correlation is chosen here, and MGMT_FLAG_REQUEST set. The wait ends with header->deadline_ms, if
 * that is not 0 (-ETIMEDOUT), or with a signal (-ERESTARTSYS). If the request comes back, the error
 * is the reason's:
 *
 *   MGMT_REASON_NO_COMPONENT	-EHOSTUNREACH	MGMT_REASON_PEER_GONE	-ECONNRESET
 *   MGMT_REASON_NO_ENDPOINT	-ECONNREFUSED	MGMT_REASON_DEADLINE	-ETIMEDOUT
 *   MGMT_REASON_DENIED		-EACCES		MGMT_REASON_TOO_LARGE	-EMSGSIZE
 *   MGMT_REASON_QUOTA		-EAGAIN		MGMT_REASON_HOPS	-ELOOP
 *
 * -EINVAL for a broadcast, a presence message or a reply. Task.
 */
struct mgmt_message *mgmt_request(struct mgmt_endpoint *endpoint, const struct mgmt_header *header,
				  const void *payload);

/*
 * Answers @request with @length bytes of @payload: its priority and its correlation are the reply's,
 * which has no deadline, so that it does not get lost in the queue of who asked. Nobody hears of a
 * reply that cannot be delivered. -EINVAL when @request is none. Never waits, as mgmt_send().
 */
int mgmt_reply(struct mgmt_endpoint *endpoint, const struct mgmt_message *request,
	       const void *payload, size_t length, gfp_t gfp);

/*
 * Starts (@on) or ends a watch on who binds and frees address->app in address->component, or on
 * the platform: messages of the kind MGMT_KIND_PRESENCE tell. Any context.
 */
int mgmt_watch(struct mgmt_endpoint *endpoint, const struct mgmt_address *address, bool on);

/*
 * The next message of an endpoint without @ops, to be put. Waits at most @timeout_ms; for ever if
 * that is MGMT_FOREVER. Error pointers: -EAGAIN when there is none in time, -ERESTARTSYS when a
 * signal comes first, -EINVAL when the endpoint has @ops. Task; any context with 0.
 */
struct mgmt_message *mgmt_receive(struct mgmt_endpoint *endpoint, unsigned int timeout_ms);

#define MGMT_FOREVER	0xffffffffu

/* Copies the header of a message; the deadline is what is left of it. Any context. */
void mgmt_message_header(const struct mgmt_message *message, struct mgmt_header *header);

/*
 * Copies at most @length bytes of the payload, from @offset on. Returns how many there were to
 * copy: less at the payload's end, and 0 behind it. Any context.
 */
size_t mgmt_message_read(const struct mgmt_message *message, size_t offset, void *to, size_t length);

/* Drops a message. Any context. */
void mgmt_message_put(struct mgmt_message *message);

/* A header of @kind, of normal priority, for @length bytes of payload, to no one yet. */
static inline void mgmt_header_init(struct mgmt_header *header, u8 kind, u32 length)
{
	memset(header, 0, sizeof(*header));
	header->version = MGMT_HEADER_VERSION;
	header->kind = kind;
	header->priority = MGMT_PRIORITY_NORMAL;
	header->length = cpu_to_le32(length);
}

/*
 * The address of @app in MGMT_COMPONENT_SELF, _MVM, _PLATFORM or _EVERYWHERE.
 * -EINVAL if the name is too long; other mistakes are for whoever gets the address.
 */
static inline int mgmt_address_word(struct mgmt_address *address, u8 component, const char *app)
{
	size_t length = strlen(app);

	memset(address, 0, sizeof(*address));
	if (length >= MGMT_APP_ID_LEN)
		return -EINVAL;
	address->component[0] = component;
	memcpy(address->app, app, length);
	return 0;
}

#endif /* _MGMT_H */
