// SPDX-License-Identifier: GPL-2.0
/*
 * The attacks that a test can ask for. The table at the end says what each
 * takes: its handler finds that in struct args, checked. Handlers of attacks
 * that take a time are called again and again until it is over.
 */

#include <linux/delay.h>
#include <linux/hex.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/barrier.h>
#include <xen/events.h>

#include "rogue.h"

#define MAX_MESSAGE 16384

struct args {
	u32 number[2];
	char *text;
	u32 len;
	u8 message[MAX_MESSAGE];
};

void command_notify(void)
{
	virt_mb();
	if (rogue.irq)
		notify_remote_via_irq(rogue.irq);
}

static void publish(void)
{
	ring_set(&rogue.tx, PROD, rogue.tx.index);
	command_notify();
}

/* Claims to have read everything, and has read nothing. */
static int drain(struct args *args)
{
	u32 prod = ring_get(&rogue.rx, PROD);

	if (prod == rogue.rx.index)
		return 0;
	rogue.rx.index = prod;
	ring_set(&rogue.rx, CONS, prod);
	command_notify();
	return 0;
}

static void put(struct args *args, u32 length, u32 format)
{
	ring_put(&rogue.tx, args->message, args->len, length, format);
	rogue.sent++;
}

static bool has_room(struct args *args)
{
	return ring_has_room(&rogue.tx, ring_record_size(&rogue.tx, args->len));
}

static bool go_on(unsigned long end, bool connected)
{
	cond_resched();
	return time_before(jiffies, end) && !(connected && READ_ONCE(rogue.stopping)) &&
	       !READ_ONCE(rogue.leaving) && !signal_pending(current);
}

static int send(struct args *args)
{
	unsigned long end = jiffies + 5 * HZ;

	while (!has_room(args)) {
		if (!go_on(end, true))
			return -ENOSPC;
		usleep_range(100, 200);
	}
	put(args, args->len, 0);
	publish();
	return 0;
}

static int hide(struct args *args)
{
	put(args, args->number[0], args->number[1]);
	return 0;
}

static int record(struct args *args)
{
	hide(args);
	publish();
	return 0;
}

static int move_prod(struct args *args)
{
	ring_set(&rogue.tx, PROD, rogue.tx.index + args->number[0]);
	command_notify();
	return 0;
}

static int move_cons(struct args *args)
{
	ring_set(&rogue.rx, CONS, ring_get(&rogue.rx, PROD) + args->number[0]);
	command_notify();
	return 0;
}

static int jump(struct args *args)
{
	ring_set(&rogue.tx, PROD, rogue.tx.index + (get_random_u32() & 0x3fff8));
	ring_set(&rogue.rx, CONS, get_random_u32() & 0x3fff8);
	command_notify();
	return 0;
}

static int flood(struct args *args)
{
	u32 i;

	if (args->number[0])
		drain(args);
	for (i = 0; i < 16 && has_room(args); i++)
		put(args, args->len, 0);
	publish();
	return 0;
}

static int storm(struct args *args)
{
	u32 i;

	for (i = 0; i < 64; i++)
		command_notify();
	return 0;
}

static int burn(struct args *args)
{
	u32 i;

	for (i = 0; i < 1000; i++)
		cpu_relax();
	return 0;
}

/* Rewrites a record while the other end reads it. */
static void tear(const struct args *args, u32 at)
{
	static const u32 lengths[] = { 0, 8, 192, 1 << 14, 1 << 15, U32_MAX };
	struct ring *tx = &rogue.tx;
	u32 i, dice = get_random_u32() | 1;

	for (i = 0; i < 500 && ring_get(tx, CONS) == at; i++) {
		dice ^= dice << 13;
		dice ^= dice >> 17;
		dice ^= dice << 5;
		switch (dice & 3) {
		case 0:
			WRITE_ONCE(*(u32 *)ring_data(tx, at), lengths[(dice >> 8) % ARRAY_SIZE(lengths)]);
			break;
		case 1:
			WRITE_ONCE(*(u32 *)ring_data(tx, at + 4), dice >> 28);
			break;
		case 2:
			WRITE_ONCE(*ring_data(tx, at + 8 + (dice >> 8) % args->len), dice >> 24);
			break;
		default:
			/* Whole again, so that now and then a check is passed. */
			WRITE_ONCE(*(u32 *)ring_data(tx, at), args->len);
			WRITE_ONCE(*(u32 *)ring_data(tx, at + 4), 0);
			ring_copy_in(tx, at + 8, args->message, args->len);
		}
	}
}

static int torn(struct args *args)
{
	u32 at = rogue.tx.index;

	drain(args);
	if (!has_room(args))
		return 0;
	put(args, args->len, 0);
	publish();
	tear(args, at);
	return 0;
}

static int scribble(struct args *args)
{
	get_random_bytes(ring_data(&rogue.tx, 0), 64);
	get_random_bytes(ring_data(&rogue.rx, 0), rogue.rx.size);
	get_random_bytes(rogue.tx.base, 128);
	get_random_bytes(rogue.rx.base, 128);
	command_notify();
	return 0;
}

static int taint(struct args *args)
{
	memset(ring_data(&rogue.rx, 0), 0xaa, rogue.rx.size);
	return 0;
}

static int lend(struct args *args)
{
	return pages_lend(args->number[0], args->number[1]);
}

static int large(struct args *args)
{
	u32 header = args->len;

	if (header > MAX_MESSAGE / 2)
		return -EINVAL;
	args->len += 4 * pages_refs((__le32 *)(args->message + header));
	if (!has_room(args))
		return -ENOSPC;
	put(args, args->len, 1);
	args->len = header;
	publish();
	return 0;
}

static int yank(struct args *args)
{
	u32 header = args->len;
	int err = pages_lend(args->number[0], LEND_GOOD) ?: large(args);

	args->len = header;
	udelay(get_random_u32() % 500);
	pages_take_back();
	drain(args);
	return err == -ENOSPC ? 0 : err;
}

static int map(struct args *args)
{
	struct ring *rx = &rogue.rx;
	u32 i, length, size = ring_next(rx);
	int err;

	if (size < 8 + 192 || size > MAX_MESSAGE)
		return -ENOENT;
	for (i = 0; i < size; i++)
		args->message[i] = *ring_data(rx, rx->index + i);
	length = le32_to_cpup((const __le32 *)args->message);
	err = pages_map((const __le32 *)(args->message + 8 + 192), (length - 192) / 4,
			!args->number[0]);
	rx->index += size;
	ring_set(rx, CONS, rx->index);
	command_notify();
	return err;
}

static int unmap(struct args *args)
{
	pages_unmap();
	return 0;
}

static int revoke(struct args *args)
{
	rogue.revoked = front_revoke(&rogue.tx) + front_revoke(&rogue.rx);
	return 0;
}

static int deaf(struct args *args)
{
	rogue_close_port();
	return 0;
}

static int release(struct args *args)
{
	down_write(&rogue.lock);
	back_release();
	up_write(&rogue.lock);
	return 0;
}

static int xenstore(struct args *args)
{
	char *node = strrchr(args->text, '/');
	int err;

	if (!node)
		return -EINVAL;
	*node = 0;
	err = xenbus_printf(XBT_NIL, args->text, node + 1, "%u", 1 + get_random_u32() % 6);
	*node = '/';
	return err;
}

enum needs {
	NOTHING,
	CHANNEL,	/* a channel, and keeps it until it ends */
	ALL,		/* nobody else at the channel */
};

/*
 * takes: t, a time in milliseconds; n, a number, which may be negative and
 * wraps; m, a message in hexadecimal; M, the same if there is one; s, the rest.
 */
static const struct command {
	const char *name, *takes;
	int (*run)(struct args *args);
	enum needs needs;
} commands[] = {
	/* One record with these bytes. */
	{ "send", "m", send, CHANNEL },
	/* LENGTH FORMAT: a record that says so, whatever is in it; not published. */
	{ "hide", "nnM", hide, CHANNEL },
	/* The same, published. */
	{ "record", "nnM", record, CHANNEL },
	/* Claims to have produced so many bytes more, or less. */
	{ "prod", "n", move_prod, CHANNEL },
	/* Claims to have consumed so many bytes more, or less, than there are. */
	{ "cons", "n", move_cons, CHANNEL },
	{ "drain", "", drain, CHANNEL },
	/* What was in the ring before must not be seen in its padding. */
	{ "taint", "", taint, CHANNEL },
	/* Other indices, at random. */
	{ "jump", "t", jump, CHANNEL },
	/* This message as often as it fits. First number 0: reads nothing. */
	{ "flood", "tnm", flood, CHANNEL },
	/* Events. */
	{ "storm", "t", storm, CHANNEL },
	/* Rewrites each record while the other end reads it. */
	{ "torn", "tm", torn, CHANNEL },
	/* Anything, anywhere in the rings. */
	{ "scribble", "t", scribble, CHANNEL },
	/* Grants so many pages for large messages; second number: enum lend. */
	{ "lend", "nn", lend, ALL },
	/* A large message with this header, in those pages. */
	{ "large", "m", large, ALL },
	/* The same, in so many pages, which it takes back while they are copied. */
	{ "yank", "tnm", yank, ALL },
	/* Takes a large message and maps its pages instead of copying them; 0: writable. */
	{ "map", "n", map, ALL },
	{ "unmap", "", unmap, ALL },
	/* Ends the grants of all pages that the other end does not map; front only. */
	{ "revoke", "", revoke, ALL },
	/* Closes the event channel. */
	{ "deaf", "", deaf, ALL },
	/* Unmaps what is held; back only. */
	{ "release", "", release, NOTHING },
	/* As busy as an attack, and none. */
	{ "burn", "t", burn, NOTHING },
	/* Writes 1 to 6 to that node, at random. */
	{ "xenstore", "ts", xenstore, NOTHING },
};

static int parse_number(char **rest, u32 *value)
{
	char *word = strsep(rest, " ");
	int err;

	if (!word)
		return -EINVAL;
	err = kstrtou32(word + (*word == '-'), 10, value);
	if (*word == '-')
		*value = -*value;
	return err;
}

static int parse_message(char *hex, struct args *args)
{
	size_t len = hex ? strlen(hex) / 2 : 0;

	if (!len || len > MAX_MESSAGE)
		return -EINVAL;
	args->len = len;
	return hex2bin(args->message, hex, len) ? -EINVAL : 0;
}

static int parse(const char *takes, char *rest, struct args *args, u32 *ms)
{
	u32 *number = args->number;
	int err = 0;

	for (; *takes && !err; takes++) {
		switch (*takes) {
		case 't':
			err = parse_number(&rest, ms);
			break;
		case 'n':
			err = parse_number(&rest, number++);
			break;
		case 'M':
			if (!rest)
				break;
			fallthrough;
		case 'm':
			err = parse_message(rest, args);
			break;
		case 's':
			args->text = rest;
			err = rest ? 0 : -EINVAL;
		}
	}
	return err;
}

static int run(const struct command *command, struct args *args, u32 ms)
{
	unsigned long end = jiffies + msecs_to_jiffies(ms);
	bool connected = command->needs != NOTHING;
	int err = 0;

	if (command->needs == ALL)
		down_write(&rogue.lock);
	else if (command->needs == CHANNEL)
		down_read(&rogue.lock);
	if (connected && !rogue.connected)
		err = -ENOTCONN;
	else if (*command->takes != 't')
		err = command->run(args);
	else
		while (!err && go_on(end, connected))
			err = command->run(args);
	if (command->needs == ALL)
		up_write(&rogue.lock);
	else if (command->needs == CHANNEL)
		up_read(&rogue.lock);
	return err;
}

int command_run(char *text)
{
	char *rest = strim(text), *name = strsep(&rest, " ");
	struct args *args;
	u32 i, ms = 0;
	int err = -EINVAL;

	args = kvzalloc(sizeof(*args), GFP_KERNEL);
	if (!args)
		return -ENOMEM;
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(name, commands[i].name))
			err = parse(commands[i].takes, rest, args, &ms) ?: run(&commands[i], args, ms);
	kvfree(args);
	return err;
}
