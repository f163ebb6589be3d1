// SPDX-License-Identifier: MIT OR Apache-2.0
/* libxenvchan, blocking: the guest is the server, as it owns the shared pages. */
#include <libxenvchan.h>
#include <stdio.h>

#include "transport.h"

static struct libxenvchan *channel;

static void serve(void)
{
	channel = libxenvchan_server_init(NULL, 0, "data/bench-vchan", RING_BYTES, RING_BYTES);
	if (!channel)
		die("libxenvchan_server_init failed");
	channel->blocking = 1;
	ready();
	/* 2: the client has not come yet. */
	while (libxenvchan_is_open(channel) == 2)
		libxenvchan_wait(channel);
}

static void connect_to(const struct peer *peer)
{
	char path[80];

	snprintf(path, sizeof(path), "/local/domain/%d/data/bench-vchan", peer->domid);
	channel = libxenvchan_client_init(NULL, peer->domid, path);
	if (!channel)
		die("libxenvchan_client_init failed");
	channel->blocking = 1;
}

static void send_to(const struct message *message)
{
	if (libxenvchan_send(channel, message, sizeof(*message)) != sizeof(*message))
		die("libxenvchan_send failed");
}

static void recv_from(struct message *message)
{
	if (libxenvchan_recv(channel, message, sizeof(*message)) != sizeof(*message))
		die("libxenvchan_recv failed");
}

const struct transport vchan = {
	.name = "libvchan",
	.serve = serve,
	.connect = connect_to,
	.send = send_to,
	.recv = recv_from,
};
