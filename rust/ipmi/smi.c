// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's IPMI interface, for smi.rs: structures with callbacks and flexible addresses are C's.
 *
 * ipmi_request_settime() may sleep, and requests come as softirqs, so a work item sends them.
 */

#include <linux/dmi.h>
#include <linux/ipmi.h>
#include <linux/module.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "../bh_helpers.h"
#include "smi.h"

static char *serial;
module_param(serial, charp, 0444);
MODULE_PARM_DESC(serial, "Serial number that the hardware is addressed by; by default the machine's");

/* Set while the watcher is registered or work may be done. */
static void *the_bridge;

const char *mgmt_ipmi_serial(void)
{
	return serial ?: dmi_get_system_info(DMI_PRODUCT_SERIAL);
}

static void work(struct work_struct *item)
{
	mgmt_ipmi_work(the_bridge);
}

static DECLARE_DELAYED_WORK(the_work, work);

void mgmt_ipmi_work_now(void)
{
	mod_delayed_work(system_dfl_wq, &the_work, 0);
}

void mgmt_ipmi_work_within(unsigned int ms)
{
	queue_delayed_work(system_dfl_wq, &the_work, msecs_to_jiffies(ms));
}

void mgmt_ipmi_stop_work(void)
{
	cancel_delayed_work_sync(&the_work);
}

static void new_smi(int interface, struct device *device)
{
	mgmt_ipmi_found(the_bridge, interface);
}

static void smi_gone(int interface)
{
	mgmt_ipmi_gone(the_bridge, interface);
}

static struct ipmi_smi_watcher watcher = {
	/* It can be unregistered also if it could not be registered. */
	.link = LIST_HEAD_INIT(watcher.link),
	.owner = THIS_MODULE,
	.new_smi = new_smi,
	.smi_gone = smi_gone,
};

int mgmt_ipmi_start(void *bridge)
{
	the_bridge = bridge;
	return ipmi_smi_watcher_register(&watcher);
}

void mgmt_ipmi_stop_watching(void)
{
	ipmi_smi_watcher_unregister(&watcher);
}

/* Called by the IPMI layer's work item, with a mutex of the interface held. */
static void receive(struct ipmi_recv_msg *msg, void *bridge)
{
	switch (msg->recv_type) {
	case IPMI_RESPONSE_RECV_TYPE:
		mgmt_ipmi_response(bridge, msg->msgid, msg->msg.netfn, msg->msg.cmd, msg->msg.data,
				   msg->msg.data_len);
		break;
	case IPMI_ASYNC_EVENT_RECV_TYPE:
		mgmt_ipmi_event(bridge, msg->msg.data, msg->msg.data_len);
		break;
	}
	ipmi_free_recv_msg(msg);
}

static const struct ipmi_user_hndl handlers = {
	.ipmi_recv_hndl = receive,
};

int mgmt_ipmi_create_user(void *bridge, int interface, struct ipmi_user **user)
{
	int err = ipmi_create_user(interface, &handlers, bridge, user);

	if (err)
		return err;
	err = ipmi_set_gets_events(*user, true);
	if (err)
		ipmi_destroy_user(*user);
	return err;
}

void mgmt_ipmi_destroy_user(struct ipmi_user *user)
{
	ipmi_destroy_user(user);
}

int mgmt_ipmi_request(struct ipmi_user *user, u64 id, u8 netfn, u8 command, const u8 *data,
		      u16 length)
{
	struct ipmi_system_interface_addr address = {
		.addr_type = IPMI_SYSTEM_INTERFACE_ADDR_TYPE,
		.channel = IPMI_BMC_CHANNEL,
	};
	struct kernel_ipmi_msg msg = {
		.netfn = netfn,
		.cmd = command,
		.data_len = length,
		.data = (unsigned char *)data,	/* which is copied */
	};

	return ipmi_request_settime(user, (struct ipmi_addr *)&address, id, &msg, NULL, 0, -1, 0);
}
