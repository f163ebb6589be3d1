// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Round trips and streams of 64 B messages between a program in Dom0 and one in a guest, over four
 * transports, with the same loops for each.
 *
 *   mgmt-bench serve TRANSPORT
 *       In the guest: does what the client asks for, until that is gone.
 *   mgmt-bench client GUEST DOMID ADDRESS ROUNDS TRIPS MESSAGES
 *       In Dom0: in each round, with each transport in turn, TRIPS round trips, a stream of
 *       MESSAGES from the guest, and one to it. Writes a line of CSV for each.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "transport.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define WARM_UP 100

static const struct transport *const transports[] = { &mchannel, &vchan, &tcp, &event };
static const char *now_with = "start";

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "mgmt-bench: %s: ", now_with);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	exit(1);
}

void ready(void)
{
	puts("ready");
	fflush(stdout);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

/* Sends one message and receives another. */
static void swap(const struct transport *t, const struct message *out, struct message *in)
{
	if (t->exchange) {
		t->exchange(out, 1, in, 1);
	} else {
		t->send(out);
		t->recv(in);
	}
}

/* Streams are numbered, so that a message that is lost, doubled or late is noticed. */
static void send_stream(const struct transport *t, uint32_t count, bool each)
{
	static struct message batch[STREAM];
	const bool streams = t->stream && !each;
	const uint32_t most = streams ? STREAM : BATCH;
	uint32_t in_batch = 0;

	for (uint32_t number = 0; number < count; number++) {
		struct message *m = &batch[in_batch];

		m->op = SOURCE;
		m->number = number;
		if (!t->exchange) {
			t->send(m);
		} else if (++in_batch == most || number + 1 == count) {
			if (streams)
				t->stream(batch, in_batch, NULL);
			else
				t->exchange(batch, in_batch, NULL, 0);
			in_batch = 0;
		}
	}
}

/* Returns when the first message came; how many came with it. */
static uint64_t recv_stream(const struct transport *t, uint32_t count, bool each, uint32_t *first)
{
	static struct message batch[STREAM];
	uint64_t start = 0;
	uint32_t number = 0;

	while (number < count) {
		uint32_t room = count - number < BATCH ? count - number : BATCH, came = 1;

		if (t->stream && !each)
			came = t->stream(NULL, 0, batch);
		else if (t->exchange)
			came = t->exchange(NULL, 0, batch, room);
		else
			t->recv(batch);
		for (uint32_t i = 0; i < came; i++, number++)
			if (batch[i].op != SOURCE || batch[i].number != number)
				die("message %u of a stream has number %lu", number, batch[i].number);
		if (!start) {
			start = now_ns();
			*first = came;
		}
	}
	return start;
}

/* -- in the guest -- */

static void echo(const struct transport *t, uint32_t count)
{
	struct message m, next;

	t->recv(&m);
	while (--count) {
		swap(t, &m, &next);
		m = next;
	}
	t->send(&m);
}

static void serve(const struct transport *t)
{
	struct message m;
	uint32_t first;

	t->serve();
	for (;;) {
		if (t->bare) {
			echo(t, UINT32_MAX);
			continue;
		}
		t->recv(&m);
		switch (m.op) {
		case ECHO:
			echo(t, m.count);
			break;
		case SOURCE:
		case SOURCE_EACH:
			send_stream(t, m.count, m.op == SOURCE_EACH);
			break;
		case SINK:
		case SINK_EACH:
			recv_stream(t, m.count, m.op == SINK_EACH, &first);
			m.op = DONE;
			t->send(&m);
			break;
		default:
			die("a message asks for %u", m.op);
		}
	}
}

/* -- in Dom0 -- */

static void ask(const struct transport *t, enum op op, uint32_t count)
{
	struct message m = { .op = op, .count = count };

	t->send(&m);
}

static int by_size(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void round_trips(const struct transport *t, uint32_t trips, uint64_t *times)
{
	struct message m = { .op = ECHO }, back = m;
	uint64_t start = 0, end;

	if (!t->bare)
		ask(t, ECHO, WARM_UP + trips);
	for (uint32_t i = 0; i < WARM_UP + trips; i++) {
		m.number = i;
		swap(t, &m, &back);
		end = now_ns();
		if (!t->bare && back.number != i)
			die("round trip %u brought message %lu", i, back.number);
		if (i >= WARM_UP)
			times[i - WARM_UP] = end - start;
		start = end;
	}
	qsort(times, trips, sizeof(*times), by_size);
}

static double per_second(uint32_t count, uint64_t since)
{
	return count * 1e9 / (now_ns() - since);
}

static double stream_up(const struct transport *t, uint32_t count, bool each)
{
	uint32_t first = 1;
	uint64_t start;

	ask(t, each ? SOURCE_EACH : SOURCE, count);
	start = recv_stream(t, count, each, &first);
	return per_second(count - first, start);
}

static double stream_down(const struct transport *t, uint32_t count, bool each)
{
	struct message m;
	uint64_t start;

	ask(t, each ? SINK_EACH : SINK, count);
	start = now_ns();
	send_stream(t, count, each);
	t->recv(&m);
	if (m.op != DONE)
		die("the receiver said %u", m.op);
	return per_second(count, start);
}

static void client(const char *guest, const struct peer *peer, int rounds, uint32_t trips,
		   uint32_t messages)
{
	uint64_t *times = calloc(trips, sizeof(*times));

	for (size_t i = 0; i < LENGTH(transports); i++) {
		now_with = transports[i]->name;
		transports[i]->connect(peer);
	}
	for (int round = 1; round <= rounds; round++) {
		for (size_t i = 0; i < LENGTH(transports); i++) {
			const struct transport *t = transports[i];

			now_with = t->name;
			/* A minute for each: whatever hangs is named. */
			alarm(60);
			round_trips(t, trips, times);
			printf("%s,%s,%d,%lu,%lu,%lu", guest, t->name, round, times[0],
			       times[trips / 2], times[trips / 100 * 99]);
			if (t->bare)
				printf(",,\n");
			for (int each = 0; each <= !!t->stream && !t->bare; each++) {
				double up = stream_up(t, messages, each);

				if (each)
					printf("%s,%s-each,%d,,,", guest, t->name, round);
				printf(",%.0f,%.0f\n", up, stream_down(t, messages, each));
			}
			fflush(stdout);
		}
	}
}

static void hung(int signal)
{
	(void)signal;
	die("no end");
}

int main(int argc, char **argv)
{
	signal(SIGALRM, hung);
	if (argc == 3 && !strcmp(argv[1], "serve")) {
		for (size_t i = 0; i < LENGTH(transports); i++) {
			if (strcmp(argv[2], transports[i]->name))
				continue;
			now_with = transports[i]->name;
			serve(transports[i]);
		}
		die("no transport %s", argv[2]);
	}
	if (argc == 8 && !strcmp(argv[1], "client")) {
		struct peer peer = { .domid = atoi(argv[3]), .address = argv[4] };
		int rounds = atoi(argv[5]), trips = atoi(argv[6]), messages = atoi(argv[7]);

		if (rounds < 1 || trips < 100 || messages < 2)
			die("that is too little to measure");
		client(argv[2], &peer, rounds, trips, messages);
		return 0;
	}
	fprintf(stderr, "usage: mgmt-bench serve TRANSPORT\n"
			"       mgmt-bench client GUEST DOMID ADDRESS ROUNDS TRIPS MESSAGES\n");
	return 2;
}
