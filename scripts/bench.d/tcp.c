// SPDX-License-Identifier: MIT OR Apache-2.0
/* TCP over netfront and netback, without Nagle's delay. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "transport.h"

#define PORT 7764

static int fd;

static void no_delay(void)
{
	int on = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		die("TCP_NODELAY: %s", strerror(errno));
}

static void serve(void)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) || listen(listener, 1))
		die("listening: %s", strerror(errno));
	ready();
	fd = accept(listener, NULL, NULL);
	if (fd < 0)
		die("accept: %s", strerror(errno));
	no_delay();
}

static void connect_to(const struct peer *peer)
{
	struct sockaddr_in there = { .sin_family = AF_INET, .sin_port = htons(PORT) };

	if (inet_pton(AF_INET, peer->address, &there.sin_addr) != 1)
		die("%s: no IPv4 address", peer->address);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&there, sizeof(there)))
		die("connecting to %s: %s", peer->address, strerror(errno));
	no_delay();
}

static void send_to(const struct message *message)
{
	if (send(fd, message, sizeof(*message), 0) != sizeof(*message))
		die("send: %s", strerror(errno));
}

static void recv_from(struct message *message)
{
	if (recv(fd, message, sizeof(*message), MSG_WAITALL) != sizeof(*message))
		die("recv: %s", strerror(errno));
}

const struct transport tcp = {
	.name = "tcp",
	.serve = serve,
	.connect = connect_to,
	.send = send_to,
	.recv = recv_from,
};
