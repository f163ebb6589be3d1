// SPDX-License-Identifier: MIT OR Apache-2.0
/* The M-channel: /dev/mgmt with MGMT_IOC_EXCHANGE, blocking. Streams go in bundles, or one by one. */
#include <errno.h>
#include <fcntl.h>
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

struct header {
	uint8_t version, kind, priority, hops;
	uint16_t flags, reason;
	uint32_t length, app_header_length;
	uint64_t sequence, correlation;
	uint32_t deadline_ms, epoch;
	uint8_t reserved[24];
	struct address source, destination;
} __attribute__((packed, aligned(4)));

_Static_assert(sizeof(struct header) == MGMT_HEADER_LEN, "the header's length");
_Static_assert(sizeof(struct address) == 64, "the address's length");

struct frame {
	struct header header;
	struct message payload;
};

/* A bundle of as many as the library has in one. */
#define PARTS 117

struct part {
	uint32_t length;
	struct message message;
} __attribute__((packed, aligned(4)));

struct bundle {
	struct header header;
	struct part parts[PARTS];
};

_Static_assert(sizeof(struct bundle) == MGMT_HEADER_LEN + PARTS * (4 + sizeof(struct message)),
	       "nothing between the parts, nor behind them");

/* Most bundles of one exchange. */
#define BUNDLES (STREAM / PARTS)

static int fd;
static struct header out = { .version = 1, .kind = DATA };

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

/* Returns how many bytes came. */
static unsigned int call(void *sent, unsigned int length, void *received, unsigned int room)
{
	struct mgmt_exchange x = {
		.send = (uintptr_t)sent, .send_length = length,
		.receive = (uintptr_t)received, .receive_length = room,
	};

	if (ioctl(fd, MGMT_IOC_EXCHANGE, &x))
		die("/dev/mgmt: exchange: %s", strerror(errno));
	if (x.send_length != length)
		die("/dev/mgmt: %u of %u bytes were sent", x.send_length, length);
	return x.receive_length;
}

static void expect(const struct header *header, bool is_bundle)
{
	if (header->kind != DATA || header->flags != (is_bundle ? MGMT_FLAG_BUNDLE : 0))
		die("/dev/mgmt: a message of kind %d came, flags %d, reason %d", header->kind,
		    header->flags, header->reason);
}

static unsigned int exchange(const struct message *sent, unsigned int count, struct message *received,
			     unsigned int room)
{
	static struct frame outs[BATCH], ins[BATCH];
	unsigned int came;

	for (unsigned int i = 0; i < count; i++) {
		outs[i].header = out;
		outs[i].header.length = sizeof(*sent);
		outs[i].payload = sent[i];
	}
	came = call(outs, count * sizeof(*outs), ins, room * sizeof(*ins)) / sizeof(*ins);
	for (unsigned int i = 0; i < came; i++) {
		expect(&ins[i].header, false);
		received[i] = ins[i].payload;
	}
	return came;
}

static unsigned int stream(const struct message *sent, unsigned int count, struct message *received)
{
	static struct bundle outs[BUNDLES], ins[BUNDLES];
	unsigned int came = 0, length = 0;
	const char *at = (char *)ins, *end;

	for (struct bundle *b = outs; count; b++) {
		unsigned int parts = count < PARTS ? count : PARTS;

		b->header = out;
		b->header.flags = MGMT_FLAG_BUNDLE;
		b->header.length = parts * sizeof(b->parts[0]);
		for (unsigned int i = 0; i < parts; i++) {
			b->parts[i].length = sizeof(*sent);
			b->parts[i].message = *sent++;
		}
		count -= parts;
		length += sizeof(b->header) + b->header.length;
	}
	end = at + call(outs, length, ins, received ? sizeof(ins) : 0);
	while (at < end) {
		const struct bundle *b = (const struct bundle *)at;

		expect(&b->header, true);
		at += sizeof(b->header) + b->header.length;
		for (const struct part *p = b->parts; (const char *)p < at; p++) {
			if (p->length != sizeof(*received) || came == STREAM)
				die("/dev/mgmt: a part of %u bytes came", p->length);
			received[came++] = p->message;
		}
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
	.stream = stream,
};
