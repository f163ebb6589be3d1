// SPDX-License-Identifier: GPL-2.0
/*
 * A hostile end of an M-channel, for tests: it takes the place of mgmtfront in
 * a guest (role=front) or of mgmtback for one guest (role=back), connects by
 * the rules of docs/wire-format.md, and then breaks those that it is told to.
 *
 * In debugfs, mgmt_rogue/:
 *
 *   command   write: runs one of the commands in the table at the end, and
 *             returns when that is done
 *   status    counters
 *   rx        takes the next record of the other end, and shows it in
 *             hexadecimal, its padding included
 *   order     pages of data in each ring, as a power of two    \
 *   grants    how the rings are granted: enum grants            |
 *   grantee   domain to grant to with GRANTS_OTHER               | for the next
 *   port      event channel to publish instead of the right one | connection
 *   stop      where connecting stops: enum stop                 |
 *   again     1: start anew whenever the channel was closed    /
 *   hold      back only, 1: keep the rings mapped when the frontend closes
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/hex.h>
#include <linux/interrupt.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/barrier.h>
#include <xen/events.h>
#include <xen/grant_table.h>
#include <xen/page.h>
#include <xen/xen.h>
#include <xen/xenbus.h>

#define MAX_ORDER 3
#define MAX_PAGES (1 + (1 << MAX_ORDER))
#define MAX_MESSAGE 16384

/* Offsets in the control page. */
#define PROD 0
#define CONS_EVENT 4
#define CONS 64
#define PROD_EVENT 68

enum grants {
	GRANTS_GOOD,
	GRANTS_READONLY,
	GRANTS_OTHER,	/* to the domain `grantee` */
	GRANTS_SAME,	/* all references are that of one page */
	GRANTS_GONE,	/* ended between publishing and Initialised */
	GRANTS_SWAPPED,	/* control pages last */
};

enum stop {
	STOP_NEVER,
	STOP_SILENT,	/* says nothing */
	STOP_NODES,	/* writes its nodes, but not its state */
	STOP_OFFERED,	/* never answers Connected */
};

static char *role = "front";
module_param(role, charp, 0444);
MODULE_PARM_DESC(role, "front or back");

static u32 order = MAX_ORDER;
static u32 grants = GRANTS_GOOD;
static u32 grantee;
static u32 port = U32_MAX;
static u32 stop = STOP_NEVER;
static u32 again;
static u32 hold;

struct ring {
	u8 *base;	/* the control page, then the data */
	u32 size;	/* bytes of data */
	u32 index;	/* our own: produced, or consumed */
	u32 pages;
	grant_ref_t refs[MAX_PAGES];	/* front: INVALID_GRANT_REF without one */
};

/* One device is enough. */
static struct {
	/* Attacks read; who makes or frees the rings writes. */
	struct rw_semaphore lock;
	bool stopping;	/* somebody wants to write */
	bool leaving;
	bool connected;
	struct xenbus_device *dev;
	struct ring tx, rx;
	int irq;

	/* Rings kept mapped, and what was in them. */
	struct ring held[2];
	u8 *snapshot[2];

	u32 connects, closings, sent, revoked, nonzero;
} rogue = {
	.lock = __RWSEM_INITIALIZER(rogue.lock),
};

/* -- rings -- */

static u32 *control(struct ring *ring, u32 field)
{
	return (u32 *)(ring->base + field);
}

static u32 get(struct ring *ring, u32 field)
{
	return virt_load_acquire(control(ring, field));
}

static void set(struct ring *ring, u32 field, u32 value)
{
	virt_store_release(control(ring, field), value);
}

static u8 *data(struct ring *ring, u32 index)
{
	return ring->base + PAGE_SIZE + (index & (ring->size - 1));
}

static void copy_in(struct ring *ring, u32 index, const u8 *from, u32 len)
{
	u32 first = min(len, ring->size - (index & (ring->size - 1)));

	memcpy(data(ring, index), from, first);
	memcpy(data(ring, 0), from + first, len - first);
}

static bool has_room(struct ring *ring, u32 len)
{
	return ring->size - (ring->index - get(ring, CONS)) >= len;
}

static void notify(void)
{
	if (rogue.irq)
		notify_remote_via_irq(rogue.irq);
}

static void publish(void)
{
	set(&rogue.tx, PROD, rogue.tx.index);
	virt_mb();
	notify();
}

/* Claims to have read everything, and has read nothing. */
static void drain(void)
{
	u32 prod = get(&rogue.rx, PROD);

	if (prod == rogue.rx.index)
		return;
	rogue.rx.index = prod;
	set(&rogue.rx, CONS, prod);
	virt_mb();
	notify();
}

static u32 record_size(u32 length)
{
	return min_t(u64, ALIGN(8 + (u64)length, 8), rogue.tx.size);
}

/* A record of @len bytes that says that it has @length. */
static void put(const u8 *message, u32 len, u32 length, u32 format)
{
	static const u8 zeros[8];
	struct ring *tx = &rogue.tx;
	__le32 header[2] = { cpu_to_le32(length), cpu_to_le32(format) };
	u32 at = tx->index;

	copy_in(tx, at, (u8 *)header, sizeof(header));
	at += sizeof(header);
	copy_in(tx, at, message, len);
	at += len;
	copy_in(tx, at, zeros, -at & 7);
	tx->index += record_size(length);
	rogue.sent++;
}

static u32 count_nonzero(struct ring *ring)
{
	u32 i, n = 0;

	for (i = 0; i < ring->pages * PAGE_SIZE; i++)
		n += !!ring->base[i];
	return n;
}

static irqreturn_t interrupt(int irq, void *unused)
{
	xen_irq_lateeoi(irq, 0);
	return IRQ_HANDLED;
}

/* Ends what attacks do; up_write(&rogue.lock) lets others begin. */
static void stop_attacks(void)
{
	WRITE_ONCE(rogue.stopping, true);
	down_write(&rogue.lock);
	WRITE_ONCE(rogue.stopping, false);
	if (rogue.connected)
		rogue.closings++;
	rogue.connected = false;
	if (rogue.irq)
		unbind_from_irqhandler(rogue.irq, &rogue);
	rogue.irq = 0;
}

static void set_connected(void)
{
	down_write(&rogue.lock);
	rogue.connects++;
	rogue.connected = true;
	up_write(&rogue.lock);
}

/* -- frontend -- */

static void free_ring(struct ring *ring)
{
	u32 i;

	for (i = 0; i < ring->pages; i++) {
		void *page = ring->base + i * PAGE_SIZE;

		if (ring->refs[i] == INVALID_GRANT_REF)
			free_page((unsigned long)page);
		else
			gnttab_end_foreign_access(ring->refs[i], virt_to_page(page));
	}
	memset(ring, 0, sizeof(*ring));
}

static int make_ring(struct xenbus_device *dev, struct ring *ring)
{
	domid_t to = grants == GRANTS_OTHER ? grantee : dev->otherend_id;
	u32 i, pages = 1 + (1 << min_t(u32, order, MAX_ORDER));
	int ref;

	ring->base = alloc_pages_exact(pages * PAGE_SIZE, GFP_KERNEL | __GFP_ZERO);
	if (!ring->base)
		return -ENOMEM;
	ring->pages = pages;
	ring->size = (pages - 1) * PAGE_SIZE;
	for (i = 0; i < pages; i++)
		ring->refs[i] = INVALID_GRANT_REF;
	for (i = 0; i < pages; i++) {
		ref = gnttab_grant_foreign_access(to, virt_to_gfn(ring->base + i * PAGE_SIZE),
						  grants == GRANTS_READONLY);
		if (ref < 0)
			return ref;
		ring->refs[i] = ref;
	}
	return 0;
}

static u32 revoke(struct ring *ring)
{
	u32 i, n = 0;

	for (i = 0; i < ring->pages; i++) {
		if (ring->refs[i] == INVALID_GRANT_REF ||
		    !gnttab_try_end_foreign_access(ring->refs[i]))
			continue;
		ring->refs[i] = INVALID_GRANT_REF;
		n++;
	}
	return n;
}

static int write_refs(struct xenbus_device *dev, const char *node, struct ring *ring)
{
	char text[MAX_PAGES * 11 + 1];
	u32 i, len = 0;

	for (i = 0; i < ring->pages; i++) {
		u32 at = grants == GRANTS_SWAPPED ? ring->pages - 1 - i : i;
		u32 ref = grants == GRANTS_SAME ? rogue.tx.refs[0] : ring->refs[at];

		len += scnprintf(text + len, sizeof(text) - len, "%s%u", i ? " " : "", ref);
	}
	return xenbus_printf(XBT_NIL, dev->nodename, node, "%s", text);
}

static int front_write(struct xenbus_device *dev, const char *node, u32 value)
{
	return xenbus_printf(XBT_NIL, dev->nodename, node, "%u", value);
}

static int front_offer(struct xenbus_device *dev)
{
	evtchn_port_t own;
	int err;

	err = make_ring(dev, &rogue.tx) ?: make_ring(dev, &rogue.rx);
	if (err)
		return err;
	err = xenbus_alloc_evtchn(dev, &own);
	if (err)
		return err;
	err = bind_evtchn_to_irqhandler_lateeoi(own, interrupt, 0, "mgmt_rogue", &rogue);
	if (err < 0) {
		xenbus_free_evtchn(dev, own);
		return err;
	}
	rogue.irq = err;
	err = front_write(dev, "protocol", 1) ?:
	      front_write(dev, "session", get_random_u32()) ?:
	      front_write(dev, "ring-page-order", order) ?:
	      front_write(dev, "event-channel", port == U32_MAX ? own : port) ?:
	      write_refs(dev, "tx-ring-refs", &rogue.tx) ?:
	      write_refs(dev, "rx-ring-refs", &rogue.rx);
	if (err || stop == STOP_NODES)
		return err;
	if (grants == GRANTS_GONE)
		rogue.revoked += revoke(&rogue.tx) + revoke(&rogue.rx);
	return xenbus_switch_state(dev, XenbusStateInitialised);
}

static void front_disconnect(void)
{
	stop_attacks();
	free_ring(&rogue.tx);
	free_ring(&rogue.rx);
	up_write(&rogue.lock);
}

static void start_anew(struct xenbus_device *dev)
{
	if (dev->state != XenbusStateInitialising)
		xenbus_switch_state(dev, XenbusStateInitWait);
}

static int front_probe(struct xenbus_device *dev, const struct xenbus_device_id *id)
{
	if (rogue.dev)
		return -EBUSY;
	rogue.dev = dev;
	start_anew(dev);
	return 0;
}

static void front_changed(struct xenbus_device *dev, enum xenbus_state state)
{
	int err = 0;

	switch (state) {
	case XenbusStateInitWait:
		front_disconnect();
		if (stop == STOP_SILENT)
			break;
		start_anew(dev);
		down_write(&rogue.lock);
		err = front_offer(dev);
		up_write(&rogue.lock);
		break;
	case XenbusStateConnected:
		if (dev->state != XenbusStateInitialised || stop == STOP_OFFERED)
			break;
		set_connected();
		err = xenbus_switch_state(dev, XenbusStateConnected);
		break;
	case XenbusStateClosing:
	case XenbusStateClosed:
		if (dev->state == XenbusStateInitialising || dev->state == XenbusStateInitWait)
			break;
		front_disconnect();
		if (state == XenbusStateClosed && again)
			start_anew(dev);
		else
			xenbus_frontend_closed(dev);
		break;
	default:
		break;
	}
	if (err)
		pr_err("cannot connect: %d\n", err);
}

static void front_remove(struct xenbus_device *dev)
{
	front_disconnect();
	rogue.dev = NULL;
}

/* -- backend -- */

static void unmap(struct ring *ring)
{
	if (ring->base)
		xenbus_unmap_ring_vfree(rogue.dev, ring->base);
	memset(ring, 0, sizeof(*ring));
}

static int map(struct xenbus_device *dev, const char *node, u32 pages, struct ring *ring)
{
	char *text, *rest, *word;
	void *base;
	u32 n = 0;
	int err = 0;

	rest = text = xenbus_read(XBT_NIL, dev->otherend, node, NULL);
	if (IS_ERR(text))
		return PTR_ERR(text);
	while (!err && n < pages && (word = strsep(&rest, " ")))
		err = kstrtou32(word, 10, &ring->refs[n++]);
	kfree(text);
	if (err || n != pages)
		return err ?: -EINVAL;
	err = xenbus_map_ring_valloc(dev, ring->refs, pages, &base);
	if (err)
		return err;
	ring->base = base;
	ring->pages = pages;
	ring->size = (pages - 1) * PAGE_SIZE;
	rogue.nonzero += count_nonzero(ring);
	return 0;
}

static void release(void)
{
	u32 i;

	for (i = 0; i < ARRAY_SIZE(rogue.held); i++) {
		unmap(&rogue.held[i]);
		kvfree(rogue.snapshot[i]);
		rogue.snapshot[i] = NULL;
	}
}

static void keep(u32 i, struct ring *ring)
{
	if (!hold || rogue.held[i].base || !ring->base) {
		unmap(ring);
		return;
	}
	rogue.snapshot[i] = kvmalloc(ring->pages * PAGE_SIZE, GFP_KERNEL);
	if (rogue.snapshot[i])
		memcpy(rogue.snapshot[i], ring->base, ring->pages * PAGE_SIZE);
	rogue.held[i] = *ring;
	memset(ring, 0, sizeof(*ring));
}

/* Bytes that changed in what is kept mapped. */
static u32 count_changed(void)
{
	u32 i, at, n = 0;

	for (i = 0; i < ARRAY_SIZE(rogue.held); i++) {
		if (!rogue.snapshot[i])
			continue;
		for (at = 0; at < rogue.held[i].pages * PAGE_SIZE; at++)
			n += rogue.held[i].base[at] != rogue.snapshot[i][at];
	}
	return n;
}

static void back_disconnect(void)
{
	stop_attacks();
	keep(0, &rogue.tx);
	keep(1, &rogue.rx);
	up_write(&rogue.lock);
}

static int back_publish(struct xenbus_device *dev)
{
	const char *dir = dev->nodename;
	int err;

	err = xenbus_printf(XBT_NIL, dir, "protocol", "1") ?:
	      xenbus_printf(XBT_NIL, dir, "max-ring-page-order", "%u", order) ?:
	      xenbus_printf(XBT_NIL, dir, "vm-id", "%u", dev->otherend_id) ?:
	      xenbus_printf(XBT_NIL, dir, "mvm-id", "0") ?:
	      xenbus_printf(XBT_NIL, dir, "mvm-ip", "%032u", 0) ?:
	      xenbus_printf(XBT_NIL, dir, "epoch", "%u", get_random_u32());
	return err ?: xenbus_switch_state(dev, XenbusStateInitWait);
}

static int back_connect(struct xenbus_device *dev)
{
	u32 pages = 1 + (1 << min(xenbus_read_unsigned(dev->otherend, "ring-page-order", 0), 9u));
	u32 remote = xenbus_read_unsigned(dev->otherend, "event-channel", 0);
	u32 session = xenbus_read_unsigned(dev->otherend, "session", 0);
	int err;

	if (pages > MAX_PAGES)
		return -EINVAL;
	err = map(dev, "rx-ring-refs", pages, &rogue.tx) ?:
	      map(dev, "tx-ring-refs", pages, &rogue.rx);
	if (err)
		return err;
	err = bind_interdomain_evtchn_to_irqhandler_lateeoi(dev, remote, interrupt, 0,
							    "mgmt_rogue", &rogue);
	if (err < 0)
		return err;
	rogue.irq = err;
	err = xenbus_printf(XBT_NIL, dev->nodename, "session", "%u", session);
	if (err || stop == STOP_NODES)
		return err;
	return xenbus_switch_state(dev, XenbusStateConnected);
}

static int back_probe(struct xenbus_device *dev, const struct xenbus_device_id *id)
{
	if (rogue.dev)
		return -EBUSY;
	rogue.dev = dev;
	return stop == STOP_SILENT ? 0 : back_publish(dev);
}

static void back_changed(struct xenbus_device *dev, enum xenbus_state state)
{
	int err = 0;

	switch (state) {
	case XenbusStateInitialising:
	case XenbusStateInitWait:
		back_disconnect();
		if (dev->state != XenbusStateInitWait && stop != STOP_SILENT)
			err = back_publish(dev);
		break;
	case XenbusStateInitialised:
		if (dev->state != XenbusStateInitWait || stop == STOP_OFFERED)
			break;
		down_write(&rogue.lock);
		err = back_connect(dev);
		up_write(&rogue.lock);
		break;
	case XenbusStateConnected:
		if (dev->state == XenbusStateConnected && !rogue.connected)
			set_connected();
		break;
	case XenbusStateClosing:
	case XenbusStateClosed:
		if (dev->state == XenbusStateInitWait)
			break;
		back_disconnect();
		err = xenbus_switch_state(dev, state);
		break;
	default:
		break;
	}
	if (err)
		pr_err("cannot connect: %d\n", err);
}

static void back_remove(struct xenbus_device *dev)
{
	back_disconnect();
	down_write(&rogue.lock);
	release();
	up_write(&rogue.lock);
	rogue.dev = NULL;
}

/* -- commands -- */

static bool go_on(unsigned long end)
{
	cond_resched();
	return time_before(jiffies, end) && !READ_ONCE(rogue.stopping) &&
	       !READ_ONCE(rogue.leaving) && !signal_pending(current);
}

static int parse_u32(char **args, u32 *value)
{
	char *word = strsep(args, " ");

	if (!word)
		return -EINVAL;
	/* Negative ones too: they wrap. */
	if (*word == '-') {
		int err = kstrtou32(word + 1, 10, value);

		*value = -*value;
		return err;
	}
	return kstrtou32(word, 10, value);
}

static int parse_time(char **args, unsigned long *end)
{
	u32 ms;
	int err = parse_u32(args, &ms);

	*end = jiffies + msecs_to_jiffies(ms);
	return err;
}

/* The rest as hexadecimal digits: returns how many bytes they were. */
static int parse_message(char *args, u8 *out)
{
	size_t len = args ? strlen(args) / 2 : 0;

	if (!len || len > MAX_MESSAGE)
		return -EINVAL;
	return hex2bin(out, args, len) ? -EINVAL : len;
}

static bool wait_for_room(u32 len)
{
	unsigned long end = jiffies + 5 * HZ;

	while (!has_room(&rogue.tx, len)) {
		if (!go_on(end))
			return false;
		usleep_range(100, 200);
	}
	return true;
}

/* send HEX: one record with these bytes. */
static int cmd_send(char *args, u8 *message)
{
	int len = parse_message(args, message);

	if (len < 0)
		return len;
	if (record_size(len) < len || !wait_for_room(record_size(len)))
		return -ENOSPC;
	put(message, len, len, 0);
	publish();
	return 0;
}

/* hide LENGTH FORMAT [HEX]: a record that says so, whatever is in it; not published. */
static int cmd_hide(char *args, u8 *message)
{
	u32 length, format;
	int err = parse_u32(&args, &length) ?: parse_u32(&args, &format);
	int len = parse_message(args, message);

	if (!err)
		put(message, max(len, 0), length, format);
	return err;
}

/* record LENGTH FORMAT [HEX]: the same, published. */
static int cmd_record(char *args, u8 *message)
{
	int err = cmd_hide(args, message);

	publish();
	return err;
}

/* prod DELTA: claims to have produced so many bytes more, or less. */
static int cmd_prod(char *args, u8 *message)
{
	u32 delta;
	int err = parse_u32(&args, &delta);

	if (err)
		return err;
	set(&rogue.tx, PROD, rogue.tx.index + delta);
	virt_mb();
	notify();
	return 0;
}

/* cons DELTA: claims to have consumed so many bytes more, or less, than there are. */
static int cmd_cons(char *args, u8 *message)
{
	u32 delta;
	int err = parse_u32(&args, &delta);

	if (err)
		return err;
	set(&rogue.rx, CONS, get(&rogue.rx, PROD) + delta);
	virt_mb();
	notify();
	return 0;
}

/* drain: takes all that is there without reading it. */
static int cmd_drain(char *args, u8 *message)
{
	drain();
	return 0;
}

/* jump MS: another index, at random, over and over. */
static int cmd_jump(char *args, u8 *message)
{
	unsigned long end;
	int err = parse_time(&args, &end);

	while (!err && go_on(end)) {
		set(&rogue.tx, PROD, rogue.tx.index + (get_random_u32() & 0x3fff8));
		set(&rogue.rx, CONS, get_random_u32() & 0x3fff8);
		notify();
	}
	return err;
}

/* flood MS DRAIN HEX: this message as often as it fits. DRAIN 0: reads nothing. */
static int cmd_flood(char *args, u8 *message)
{
	unsigned long end;
	u32 drains, n = 0;
	int err = parse_time(&args, &end) ?: parse_u32(&args, &drains);
	int len;

	if (err)
		return err;
	len = parse_message(args, message);
	if (len < 0)
		return len;
	while (go_on(end)) {
		if (drains)
			drain();
		if (!has_room(&rogue.tx, record_size(len))) {
			publish();
			cpu_relax();
			continue;
		}
		put(message, len, len, 0);
		if (++n % 16 == 0)
			publish();
	}
	publish();
	return 0;
}

/* storm MS: events, as fast as it can. */
static int cmd_storm(char *args, u8 *message)
{
	unsigned long end;
	int i, err = parse_time(&args, &end);

	while (!err && go_on(end))
		for (i = 0; i < 64; i++)
			notify();
	return err;
}

/* burn MS: as busy as an attack, and none. */
static int cmd_burn(char *args, u8 *message)
{
	unsigned long end;
	int i, err = parse_time(&args, &end);

	while (!err && go_on(end))
		for (i = 0; i < 1000; i++)
			cpu_relax();
	return err;
}

static void tear(const u8 *message, u32 at, u32 len)
{
	static const u32 lengths[] = { 0, 8, 192, 1 << 14, 1 << 15, U32_MAX };
	struct ring *tx = &rogue.tx;
	u32 i, dice = get_random_u32() | 1;

	for (i = 0; i < 500 && get(tx, CONS) == at; i++) {
		dice ^= dice << 13;
		dice ^= dice >> 17;
		dice ^= dice << 5;
		switch (dice & 3) {
		case 0:
			WRITE_ONCE(*(u32 *)data(tx, at), lengths[(dice >> 8) % ARRAY_SIZE(lengths)]);
			break;
		case 1:
			WRITE_ONCE(*(u32 *)data(tx, at + 4), dice >> 28);
			break;
		case 2:
			WRITE_ONCE(*data(tx, at + 8 + (dice >> 8) % len), dice >> 24);
			break;
		default:
			/* Whole again, so that now and then a check is passed. */
			WRITE_ONCE(*(u32 *)data(tx, at), len);
			WRITE_ONCE(*(u32 *)data(tx, at + 4), 0);
			copy_in(tx, at + 8, message, len);
		}
	}
}

/* torn MS HEX: rewrites each record while the other end reads it. */
static int cmd_torn(char *args, u8 *message)
{
	unsigned long end;
	int len, err = parse_time(&args, &end);
	u32 at;

	if (err)
		return err;
	len = parse_message(args, message);
	if (len < 0)
		return len;
	while (go_on(end)) {
		drain();
		at = rogue.tx.index;
		if (!has_room(&rogue.tx, record_size(len)))
			continue;
		put(message, len, len, 0);
		publish();
		tear(message, at, len);
	}
	return 0;
}

/* scribble MS: anything, anywhere in the rings. */
static int cmd_scribble(char *args, u8 *message)
{
	unsigned long end;
	int err = parse_time(&args, &end);

	while (!err && go_on(end)) {
		get_random_bytes(data(&rogue.tx, 0), 64);
		get_random_bytes(data(&rogue.rx, 0), rogue.rx.size);
		get_random_bytes(rogue.tx.base, 128);
		get_random_bytes(rogue.rx.base, 128);
		notify();
	}
	return err;
}

/* taint: what was in the ring before must not be seen in its padding. */
static int cmd_taint(char *args, u8 *message)
{
	memset(data(&rogue.rx, 0), 0xaa, rogue.rx.size);
	return 0;
}

/* revoke: ends the grants of all pages that the other end does not map; front only. */
static int cmd_revoke(char *args, u8 *message)
{
	rogue.revoked = revoke(&rogue.tx) + revoke(&rogue.rx);
	return 0;
}

/* deaf: closes the event channel. */
static int cmd_deaf(char *args, u8 *message)
{
	if (rogue.irq)
		unbind_from_irqhandler(rogue.irq, &rogue);
	rogue.irq = 0;
	return 0;
}

/* release: unmaps what is held; back only. */
static int cmd_release(char *args, u8 *message)
{
	release();
	return 0;
}

/* xenstore MS NODE: writes 1 to 6 to that node, at random, as fast as it can. */
static int cmd_xenstore(char *args, u8 *message)
{
	unsigned long end;
	int err = parse_time(&args, &end);
	char *node = strrchr(args ?: "", '/');

	if (err || !node)
		return err ?: -EINVAL;
	*node++ = 0;
	while (!err && time_before(jiffies, end) && !READ_ONCE(rogue.leaving) &&
	       !signal_pending(current))
		err = xenbus_printf(XBT_NIL, args, node, "%u", 1 + get_random_u32() % 6);
	return err;
}

static const struct command {
	const char *name;
	int (*run)(char *args, u8 *message);
	bool connected;	/* needs a channel, and keeps it until it ends */
	bool alone;	/* changes what others use */
} commands[] = {
	{ "send", cmd_send, true },
	{ "hide", cmd_hide, true },
	{ "record", cmd_record, true },
	{ "prod", cmd_prod, true },
	{ "cons", cmd_cons, true },
	{ "drain", cmd_drain, true },
	{ "jump", cmd_jump, true },
	{ "flood", cmd_flood, true },
	{ "storm", cmd_storm, true },
	{ "torn", cmd_torn, true },
	{ "scribble", cmd_scribble, true },
	{ "taint", cmd_taint, true },
	{ "revoke", cmd_revoke, true, true },
	{ "deaf", cmd_deaf, true, true },
	{ "release", cmd_release, false, true },
	{ "burn", cmd_burn },
	{ "xenstore", cmd_xenstore },
};

static int run(const struct command *command, char *args, u8 *message)
{
	int err;

	if (command->alone)
		down_write(&rogue.lock);
	else if (command->connected)
		down_read(&rogue.lock);
	err = command->connected && !rogue.connected ? -ENOTCONN : command->run(args, message);
	if (command->alone)
		up_write(&rogue.lock);
	else if (command->connected)
		up_read(&rogue.lock);
	return err;
}

static ssize_t command_write(struct file *file, const char __user *from, size_t len, loff_t *at)
{
	char *text, *args, *name;
	int i, err = -EINVAL;
	u8 *message;

	if (len > 2 * MAX_MESSAGE + 100)
		return -E2BIG;
	text = memdup_user_nul(from, len);
	if (IS_ERR(text))
		return PTR_ERR(text);
	message = kvzalloc(MAX_MESSAGE, GFP_KERNEL);
	if (!message) {
		kfree(text);
		return -ENOMEM;
	}
	args = strim(text);
	name = strsep(&args, " ");
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(name, commands[i].name))
			err = run(&commands[i], args, message);
	kvfree(message);
	kfree(text);
	return err ?: len;
}

static const struct file_operations command_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = command_write,
};

static int status_show(struct seq_file *file, void *unused)
{
	down_read(&rogue.lock);
	seq_printf(file, "connected %d\nconnects %u\nclosings %u\nsent %u\n", rogue.connected,
		   rogue.connects, rogue.closings, rogue.sent);
	seq_printf(file, "revoked %u\nnonzero %u\nheld %u\nchanged %u\n", rogue.revoked,
		   rogue.nonzero, rogue.held[0].pages + rogue.held[1].pages, count_changed());
	up_read(&rogue.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(status);

static int rx_show(struct seq_file *file, void *unused)
{
	u32 i, len;

	down_read(&rogue.lock);
	if (rogue.connected && get(&rogue.rx, PROD) != rogue.rx.index) {
		len = ALIGN(8 + READ_ONCE(*(u32 *)data(&rogue.rx, rogue.rx.index)), 8);
		len = min(len, rogue.rx.size);
		for (i = 0; i < len; i++)
			seq_printf(file, "%02x", *data(&rogue.rx, rogue.rx.index + i));
		seq_putc(file, '\n');
		if (!seq_has_overflowed(file)) {
			rogue.rx.index += len;
			set(&rogue.rx, CONS, rogue.rx.index);
			virt_mb();
			notify();
		}
	}
	up_read(&rogue.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(rx);

/* -- module -- */

static const struct xenbus_device_id ids[] = {
	{ "mgmt" },
	{ "" },
};

static struct xenbus_driver front = {
	.name = "mgmt_rogue",
	.ids = ids,
	.not_essential = true,
	.probe = front_probe,
	.otherend_changed = front_changed,
	.remove = front_remove,
};

static struct xenbus_driver back = {
	.name = "mgmt_rogue",
	.ids = ids,
	.probe = back_probe,
	.otherend_changed = back_changed,
	.remove = back_remove,
};

static struct dentry *dir;

static int __init rogue_init(void)
{
	const struct { const char *name; u32 *value; } knobs[] = {
		{ "order", &order }, { "grants", &grants }, { "grantee", &grantee },
		{ "port", &port }, { "stop", &stop }, { "again", &again }, { "hold", &hold },
	};
	int i, err;

	if (!xen_domain())
		return -ENODEV;
	dir = debugfs_create_dir("mgmt_rogue", NULL);
	debugfs_create_file("command", 0200, dir, NULL, &command_fops);
	debugfs_create_file("status", 0400, dir, NULL, &status_fops);
	debugfs_create_file("rx", 0400, dir, NULL, &rx_fops);
	for (i = 0; i < ARRAY_SIZE(knobs); i++)
		debugfs_create_u32(knobs[i].name, 0600, dir, knobs[i].value);

	/* No owner: it would keep the module while a device is bound. */
	if (!strcmp(role, "front"))
		err = __xenbus_register_frontend(&front, NULL, KBUILD_MODNAME);
	else if (!strcmp(role, "back"))
		err = __xenbus_register_backend(&back, NULL, KBUILD_MODNAME);
	else
		err = -EINVAL;
	if (err)
		debugfs_remove(dir);
	return err;
}
module_init(rogue_init);

static void __exit rogue_exit(void)
{
	WRITE_ONCE(rogue.leaving, true);
	debugfs_remove(dir);
	xenbus_unregister_driver(!strcmp(role, "front") ? &front : &back);
}
module_exit(rogue_exit);

MODULE_AUTHOR("The mgmt developers");
MODULE_DESCRIPTION("A hostile end of an M-channel, for tests");
MODULE_LICENSE("GPL");
