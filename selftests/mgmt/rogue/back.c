// SPDX-License-Identifier: GPL-2.0
/* The hostile backend. */

#include <linux/mm.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <xen/events.h>

#include "rogue.h"

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
	rogue.nonzero += ring_count_nonzero(ring);
	return 0;
}

void back_release(void)
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
	if (!knobs.hold || rogue.held[i].base || !ring->base) {
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
u32 back_count_changed(void)
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
	rogue_stop_attacks();
	keep(0, &rogue.tx);
	keep(1, &rogue.rx);
	up_write(&rogue.lock);
}

static int back_publish(struct xenbus_device *dev)
{
	const char *dir = dev->nodename;
	int err;

	err = xenbus_printf(XBT_NIL, dir, "protocol", "1") ?:
	      xenbus_printf(XBT_NIL, dir, "max-ring-page-order", "%u", knobs.order) ?:
	      xenbus_printf(XBT_NIL, dir, "vm-id", "%u", dev->otherend_id) ?:
	      xenbus_printf(XBT_NIL, dir, "mvm-id", "0") ?:
	      xenbus_printf(XBT_NIL, dir, "mvm-ip", "%032u", 0) ?:
	      xenbus_printf(XBT_NIL, dir, "epoch", "%u", get_random_u32());
	return err ?: xenbus_switch_state(dev, XenbusStateInitWait);
}

/* Answers that it knows nothing of a link: the nodes may be of another backend. */
static int answer(struct xenbus_device *dev)
{
	char *fresh = xenbus_read(XBT_NIL, dev->otherend, "fresh-link", NULL);
	int err;

	if (IS_ERR(fresh))
		return PTR_ERR(fresh);
	err = xenbus_printf(XBT_NIL, dev->nodename, "link", "%s", fresh) ?:
	      xenbus_printf(XBT_NIL, dev->nodename, "received", "%016u", 0);
	kfree(fresh);
	return err;
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
	err = bind_interdomain_evtchn_to_irqhandler_lateeoi(dev, remote, rogue_interrupt, 0,
							    "mgmt_rogue", &rogue);
	if (err < 0)
		return err;
	rogue.irq = err;
	err = answer(dev) ?: xenbus_printf(XBT_NIL, dev->nodename, "session", "%u", session);
	if (err || knobs.stop == STOP_NODES)
		return err;
	return xenbus_switch_state(dev, XenbusStateConnected);
}

static int back_probe(struct xenbus_device *dev, const struct xenbus_device_id *id)
{
	if (rogue.dev)
		return -EBUSY;
	rogue.dev = dev;
	return knobs.stop == STOP_SILENT ? 0 : back_publish(dev);
}

static void back_changed(struct xenbus_device *dev, enum xenbus_state state)
{
	int err = 0;

	switch (state) {
	case XenbusStateInitialising:
	case XenbusStateInitWait:
		back_disconnect();
		if (dev->state != XenbusStateInitWait && knobs.stop != STOP_SILENT)
			err = back_publish(dev);
		break;
	case XenbusStateInitialised:
		if (dev->state != XenbusStateInitWait || knobs.stop == STOP_OFFERED)
			break;
		down_write(&rogue.lock);
		err = back_connect(dev);
		up_write(&rogue.lock);
		break;
	case XenbusStateConnected:
		if (dev->state == XenbusStateConnected && !rogue.connected)
			rogue_set_connected();
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
		dev_err(&dev->dev, "cannot connect: %d\n", err);
}

static void back_remove(struct xenbus_device *dev)
{
	back_disconnect();
	down_write(&rogue.lock);
	back_release();
	up_write(&rogue.lock);
	rogue.dev = NULL;
}

struct xenbus_driver back_driver = {
	.name = "mgmt_rogue",
	.ids = rogue_ids,
	.probe = back_probe,
	.otherend_changed = back_changed,
	.remove = back_remove,
};
