// SPDX-License-Identifier: GPL-2.0
/* The hostile frontend. */

#include <linux/mm.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <xen/events.h>
#include <xen/page.h>

#include "rogue.h"

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
	domid_t to = knobs.grants == GRANTS_OTHER ? knobs.grantee : dev->otherend_id;
	u32 i, pages = 1 + (1 << min_t(u32, knobs.order, MAX_ORDER));
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
						  knobs.grants == GRANTS_READONLY);
		if (ref < 0)
			return ref;
		ring->refs[i] = ref;
	}
	return 0;
}

u32 front_revoke(struct ring *ring)
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
		u32 at = knobs.grants == GRANTS_SWAPPED ? ring->pages - 1 - i : i;
		u32 ref = knobs.grants == GRANTS_SAME ? rogue.tx.refs[0] : ring->refs[at];

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
	err = bind_evtchn_to_irqhandler_lateeoi(own, rogue_interrupt, 0, "mgmt_rogue", &rogue);
	if (err < 0) {
		xenbus_free_evtchn(dev, own);
		return err;
	}
	rogue.irq = err;
	err = front_write(dev, "protocol", 1) ?:
	      front_write(dev, "session", get_random_u32()) ?:
	      front_write(dev, "ring-page-order", knobs.order) ?:
	      front_write(dev, "event-channel", knobs.port == U32_MAX ? own : knobs.port) ?:
	      write_refs(dev, "tx-ring-refs", &rogue.tx) ?:
	      write_refs(dev, "rx-ring-refs", &rogue.rx);
	if (err || knobs.stop == STOP_NODES)
		return err;
	if (knobs.grants == GRANTS_GONE)
		rogue.revoked += front_revoke(&rogue.tx) + front_revoke(&rogue.rx);
	return xenbus_switch_state(dev, XenbusStateInitialised);
}

static void front_disconnect(void)
{
	rogue_stop_attacks();
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
		/* Of two changes, both may be seen after the second: one offer is enough. */
		if (dev->state == XenbusStateInitialised)
			break;
		front_disconnect();
		if (knobs.stop == STOP_SILENT)
			break;
		start_anew(dev);
		down_write(&rogue.lock);
		err = front_offer(dev);
		up_write(&rogue.lock);
		break;
	case XenbusStateConnected:
		if (dev->state != XenbusStateInitialised || knobs.stop == STOP_OFFERED)
			break;
		rogue_set_connected();
		err = xenbus_switch_state(dev, XenbusStateConnected);
		break;
	case XenbusStateClosing:
	case XenbusStateClosed:
		if (dev->state == XenbusStateInitialising || dev->state == XenbusStateInitWait)
			break;
		front_disconnect();
		if (state == XenbusStateClosed && knobs.again)
			start_anew(dev);
		else
			xenbus_frontend_closed(dev);
		break;
	default:
		break;
	}
	if (err)
		dev_err(&dev->dev, "cannot connect: %d\n", err);
}

static void front_remove(struct xenbus_device *dev)
{
	front_disconnect();
	rogue.dev = NULL;
}

struct xenbus_driver front_driver = {
	.name = "mgmt_rogue",
	.ids = rogue_ids,
	.not_essential = true,
	.probe = front_probe,
	.otherend_changed = front_changed,
	.remove = front_remove,
};
