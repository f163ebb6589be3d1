// SPDX-License-Identifier: GPL-2.0
/* The module, its files in debugfs, and the one device. */

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <xen/events.h>
#include <xen/xen.h>

#include "rogue.h"

#define MAX_COMMAND (33 * 1024)

static char *role = "front";
module_param(role, charp, 0444);
MODULE_PARM_DESC(role, "front or back");

struct knobs knobs = {
	.order = MAX_ORDER,
	.port = U32_MAX,
};

struct rogue rogue = {
	.lock = __RWSEM_INITIALIZER(rogue.lock),
};

const struct xenbus_device_id rogue_ids[] = {
	{ "mgmt" },
	{ "" },
};

irqreturn_t rogue_interrupt(int irq, void *unused)
{
	xen_irq_lateeoi(irq, 0);
	return IRQ_HANDLED;
}

void rogue_close_port(void)
{
	if (rogue.irq)
		unbind_from_irqhandler(rogue.irq, &rogue);
	rogue.irq = 0;
}

void rogue_stop_attacks(void)
{
	WRITE_ONCE(rogue.stopping, true);
	down_write(&rogue.lock);
	WRITE_ONCE(rogue.stopping, false);
	if (rogue.connected)
		rogue.closings++;
	rogue.connected = false;
	rogue_close_port();
}

void rogue_set_connected(void)
{
	down_write(&rogue.lock);
	rogue.connects++;
	rogue.connected = true;
	up_write(&rogue.lock);
}

/* -- files -- */

static ssize_t command_write(struct file *file, const char __user *from, size_t len, loff_t *at)
{
	char *text;
	int err;

	if (len > MAX_COMMAND)
		return -E2BIG;
	text = memdup_user_nul(from, len);
	if (IS_ERR(text))
		return PTR_ERR(text);
	err = command_run(text);
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
		   rogue.nonzero, rogue.held[0].pages + rogue.held[1].pages, back_count_changed());
	seq_printf(file, "mapped %u\ntail %u\n", rogue.mapped, rogue.tail);
	up_read(&rogue.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(status);

static int rx_show(struct seq_file *file, void *unused)
{
	struct ring *rx = &rogue.rx;
	u32 i, len;

	down_read(&rogue.lock);
	len = rogue.connected ? ring_next(rx) : 0;
	for (i = 0; i < len; i++)
		seq_printf(file, "%02x", *ring_data(rx, rx->index + i));
	if (len && !seq_has_overflowed(file)) {
		rx->index += len;
		ring_set(rx, CONS, rx->index);
		command_notify();
	}
	up_read(&rogue.lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(rx);

/* -- module -- */

static struct dentry *dir;

static int __init rogue_init(void)
{
	const struct { const char *name; u32 *value; } files[] = {
		{ "order", &knobs.order }, { "grants", &knobs.grants },
		{ "grantee", &knobs.grantee }, { "port", &knobs.port }, { "stop", &knobs.stop },
		{ "again", &knobs.again }, { "hold", &knobs.hold },
	};
	u32 i;
	int err;

	if (!xen_domain())
		return -ENODEV;
	dir = debugfs_create_dir("mgmt_rogue", NULL);
	debugfs_create_file("command", 0200, dir, NULL, &command_fops);
	debugfs_create_file("status", 0400, dir, NULL, &status_fops);
	debugfs_create_file("rx", 0400, dir, NULL, &rx_fops);
	for (i = 0; i < ARRAY_SIZE(files); i++)
		debugfs_create_u32(files[i].name, 0600, dir, files[i].value);

	/* No owner: it would keep the module while a device is bound. */
	if (!strcmp(role, "front"))
		err = __xenbus_register_frontend(&front_driver, NULL, KBUILD_MODNAME);
	else if (!strcmp(role, "back"))
		err = __xenbus_register_backend(&back_driver, NULL, KBUILD_MODNAME);
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
	xenbus_unregister_driver(!strcmp(role, "front") ? &front_driver : &back_driver);
	pages_take_back();
	pages_unmap();
}
module_exit(rogue_exit);

MODULE_AUTHOR("The mgmt developers");
MODULE_DESCRIPTION("A hostile end of an M-channel, for tests");
MODULE_LICENSE("GPL");
