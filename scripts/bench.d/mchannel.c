// SPDX-License-Identifier: MIT OR Apache-2.0
/* The M-channel: /dev/mgmt with MGMT_IOC_EXCHANGE, blocking. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../../include/uapi/mgmt.h"
#include "transport.h"

#define CLIENT "BenchClient"
#define SERVER "BenchServer"

enum { DATA = 3 };
enum { COMPONENT_VM = 1, COMPONENT_MVM = 5 };

/* docs/wire-format.md */
struct address {
	uint8_t kind, length, reserved[2];
	uint8_t ip[16];
	uint32_t vm_id;
	uint8_t unused[8];
	char app[MGMT_APP_ID_LEN];
};

struct frame {
	uint8_t version, kind, priority, hops;
	uint16_t flags, reason;
	uint32_t length, app_header_length;
	uint64_t sequence, correlation;
	uint32_t deadline_ms, epoch;
	uint8_t reserved[24];
	struct address source, destination;
	struct message payload;
};

_Static_assert(offsetof(struct frame, payload) == MGMT_HEADER_LEN, "the header's length");

static int fd;
static struct frame out = { .version = 1, .kind = DATA, .length = sizeof(struct message) };

static struct mgmt_info open_as(const char *app)
{
	struct mgmt_bind bind = { .flags = 0 };
	struct mgmt_info info;

	strncpy((char *)bind.app, app, sizeof(bind.app) - 1);
	fd = open("/dev/mgmt", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, MGMT_IOC_BIND, &bind) || ioctl(fd, MGMT_IOC_INFO, &info))
		die("/dev/mgmt: %s", strerror(errno));
	return info;
}

static void serve(void)
{
	open_as(SERVER);
	out.destination.kind = COMPONENT_MVM;
	strcpy(out.destination.app, CLIENT);
	ready();
}

static void connect_to(const struct peer *peer)
{
	struct mgmt_info info = open_as(CLIENT);

	/* This domain's name, but for the VM_ID. */
	memcpy(&out.destination, info.component, sizeof(info.component));
	if (out.destination.kind != COMPONENT_VM)
		die("/dev/mgmt: Dom0 has no name");
	out.destination.vm_id = peer->domid;
	strcpy(out.destination.app, SERVER);
}

static unsigned int exchange(const struct message *sent, unsigned int count, struct message *received,
			     unsigned int room)
{
	static struct frame outs[BATCH], ins[BATCH];
	struct mgmt_exchange x = {
		.send = (uintptr_t)outs, .send_length = count * sizeof(*outs),
		.receive = (uintptr_t)ins, .receive_length = room * sizeof(*ins),
	};
	unsigned int came;

	for (unsigned int i = 0; i < count; i++) {
		outs[i] = out;
		outs[i].payload = sent[i];
	}
	if (ioctl(fd, MGMT_IOC_EXCHANGE, &x))
		die("/dev/mgmt: exchange: %s", strerror(errno));
	if (x.send_length != count * sizeof(*outs))
		die("/dev/mgmt: %u bytes of %u messages were sent", x.send_length, count);
	came = x.receive_length / sizeof(*ins);
	for (unsigned int i = 0; i < came; i++) {
		if (ins[i].kind != DATA || ins[i].length != sizeof(*received))
			die("/dev/mgmt: a message of kind %d came, reason %d", ins[i].kind, ins[i].reason);
		received[i] = ins[i].payload;
	}
	return came;
}

static void send_to(const struct message *message)
{
	exchange(message, 1, NULL, 0);
}

static void recv_from(struct message *message)
{
	exchange(NULL, 0, message, 1);
}

const struct transport mchannel = {
	.name = "m-channel",
	.serve = serve,
	.connect = connect_to,
	.send = send_to,
	.recv = recv_from,
	.exchange = exchange,
};
