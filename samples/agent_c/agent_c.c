// SPDX-License-Identifier: GPL-2.0
/*
 * An agent in the kernel, in C: serves an App_ID, answers whoever asks, and asks a broker itself when
 * it is loaded.
 *
 *   insmod agent_c.ko                     serves AgentC
 *   insmod agent_c.ko broker=Hello        and asks Hello in the management VM
 *   insmod agent_c.ko broker=Hello vm=3   and asks Hello in the domain 3 of this platform
 *   insmod agent_c.ko serial=CZ342        serves AgentC of this hardware, in the management VM
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/unaligned.h>
#include <mgmt.h>

#define APP		"AgentC"
#define GREETING	"hello from the kernel, in C"
#define DEADLINE_MS	10000

static char *broker;
module_param(broker, charp, 0444);
MODULE_PARM_DESC(broker, "App_ID of the broker to ask; none by default");

static int vm = -1;
module_param(vm, int, 0444);
MODULE_PARM_DESC(vm, "Domain of the broker; by default the management VM");

static char *serial;
module_param(serial, charp, 0444);
MODULE_PARM_DESC(serial, "Serial number of the hardware to serve; by default this domain");

static struct mgmt_endpoint *endpoint;

/* Called as a softirq: it may not sleep. */
static void answer(struct mgmt_endpoint *from, struct mgmt_message *message, void *data)
{
	struct mgmt_header header;
	int err;

	mgmt_message_header(message, &header);
	if (le16_to_cpu(header.flags) & MGMT_FLAG_REQUEST) {
		err = mgmt_reply(from, message, GREETING, strlen(GREETING), GFP_ATOMIC);
		if (err)
			pr_info("no reply: %pe\n", ERR_PTR(err));
	}
	mgmt_message_put(message);
}

static const struct mgmt_ops ops = {
	.receive = answer,
};

static int address_of_broker(struct mgmt_address *address)
{
	int err = mgmt_address_word(address, MGMT_COMPONENT_MVM, broker);

	if (err || vm < 0)
		return err;
	/* <MVM_IP, VM_ID>, 20 bytes; without an MVM_IP, of this platform. */
	address->component[0] = MGMT_COMPONENT_VM;
	address->component[1] = 20;
	put_unaligned_le32(vm, &address->component[20]);
	return 0;
}

static void ask(void)
{
	static const char question[] = "who are you?";
	struct mgmt_message *reply;
	struct mgmt_header header;
	char text[64];
	size_t length;

	mgmt_header_init(&header, MGMT_KIND_DATA, strlen(question));
	header.deadline_ms = cpu_to_le32(DEADLINE_MS);
	if (address_of_broker(&header.destination)) {
		pr_info("%s is no App_ID\n", broker);
		return;
	}
	reply = mgmt_request(endpoint, &header, question);
	if (IS_ERR(reply)) {
		pr_info("%s did not answer: %pe\n", broker, reply);
		return;
	}
	length = mgmt_message_read(reply, 0, text, sizeof(text));
	pr_info("%s answered: %*pEp\n", broker, (int)length, text);
	mgmt_message_put(reply);
}

static int __init agent_init(void)
{
	if (serial)
		endpoint = mgmt_open_hardware(serial, APP, 0, &ops, NULL);
	else
		endpoint = mgmt_open(APP, 0, &ops, NULL);
	if (IS_ERR(endpoint))
		return PTR_ERR(endpoint);
	if (broker)
		ask();
	return 0;
}
module_init(agent_init);

static void __exit agent_exit(void)
{
	mgmt_close(endpoint);
}
module_exit(agent_exit);

MODULE_DESCRIPTION("Sample agent for M-channels");
MODULE_LICENSE("GPL");
