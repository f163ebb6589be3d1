// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A bare event channel through /dev/xen/evtchn: what any channel with a program at each end pays
 * at least, unless it polls.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenevtchn.h>
#include <xenstore.h>

#include "transport.h"

#define NODE "data/bench-event"

static xenevtchn_handle *handle;
static xenevtchn_port_or_error_t port;

static struct xs_handle *open_all(void)
{
	struct xs_handle *store = xs_open(0);

	handle = xenevtchn_open(NULL, 0);
	if (!store || !handle)
		die("xenstore or /dev/xen/evtchn cannot be opened");
	return store;
}

static void serve(void)
{
	struct xs_handle *store = open_all();
	char text[16];

	port = xenevtchn_bind_unbound_port(handle, 0);
	if (port < 0)
		die("xenevtchn_bind_unbound_port failed");
	snprintf(text, sizeof(text), "%d", port);
	if (!xs_write(store, XBT_NULL, NODE, text, strlen(text)))
		die("xenstore: " NODE " cannot be written");
	xs_close(store);
	ready();
}

static void connect_to(const struct peer *peer)
{
	struct xs_handle *store = open_all();
	char path[80], *text;

	snprintf(path, sizeof(path), "/local/domain/%d/" NODE, peer->domid);
	text = xs_read(store, XBT_NULL, path, NULL);
	if (!text)
		die("xenstore: no %s", path);
	port = xenevtchn_bind_interdomain(handle, peer->domid, atoi(text));
	if (port < 0)
		die("xenevtchn_bind_interdomain failed");
	free(text);
	xs_close(store);
}

static void send_to(const struct message *message)
{
	(void)message;
	if (xenevtchn_notify(handle, port))
		die("xenevtchn_notify failed");
}

static void recv_from(struct message *message)
{
	(void)message;
	if (xenevtchn_pending(handle) != port || xenevtchn_unmask(handle, port))
		die("no event could be taken");
}

const struct transport event = {
	.name = "event",
	.bare = true,
	.serve = serve,
	.connect = connect_to,
	.send = send_to,
	.recv = recv_from,
};
