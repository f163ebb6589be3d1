/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A way to move 64 B messages between Dom0 and a guest, from one program to another. */
#ifndef TRANSPORT_H
#define TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

/* Streams: to the guest, from it; each of them as fast as can be, or with one send for each message. */
enum op { ECHO = 1, SINK, SOURCE, SINK_EACH, SOURCE_EACH, DONE };

struct message {
	uint32_t op;
	uint32_t count;
	uint64_t number;
	uint8_t rest[48];
};

_Static_assert(sizeof(struct message) == 64, "what is compared is 64 B");

struct peer {
	int domid;
	const char *address;
};

/* One connection for each process. Whatever fails ends the program. */
struct transport {
	const char *name;
	/* It has no content: each message is an event, and nothing but a round trip can be asked. */
	bool bare;
	/* In the guest: makes the connection's end, says that it is ready, and waits for the client. */
	void (*serve)(void);
	/* In Dom0. */
	void (*connect)(const struct peer *peer);
	void (*send)(const struct message *message);
	void (*recv)(struct message *message);
	/*
	 * Sends some, then receives at least one if there is room for any: how many it received. NULL
	 * if nothing is gained over the two above.
	 */
	unsigned int (*exchange)(const struct message *out, unsigned int count,
				 struct message *in, unsigned int room);
	/*
	 * Sends some of a stream, at most STREAM, or receives at least one, with room for as many: how
	 * many it received. NULL if nothing is gained over the above.
	 */
	unsigned int (*stream)(const struct message *out, unsigned int count, struct message *in);
};

/* Most messages of one exchange, and of one part of a stream: four bundles of the M-channel's. */
#define BATCH 32
#define STREAM (4 * 117)

extern const struct transport mchannel, vchan, tcp, event;

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void ready(void);

/* Bytes of each direction's ring, where one can choose: as many as the M-channel's. */
#define RING_BYTES (32 * 1024)

#endif
