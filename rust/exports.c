// SPDX-License-Identifier: GPL-2.0
/* What other modules may call: kapi.rs has it, include/mgmt.h describes it. */

#include <linux/export.h>
#include <mgmt.h>

EXPORT_SYMBOL_GPL(mgmt_open);
EXPORT_SYMBOL_GPL(mgmt_open_hardware);
EXPORT_SYMBOL_GPL(mgmt_close);
EXPORT_SYMBOL_GPL(mgmt_send);
EXPORT_SYMBOL_GPL(mgmt_send_wait);
EXPORT_SYMBOL_GPL(mgmt_request);
EXPORT_SYMBOL_GPL(mgmt_reply);
EXPORT_SYMBOL_GPL(mgmt_watch);
EXPORT_SYMBOL_GPL(mgmt_receive);
EXPORT_SYMBOL_GPL(mgmt_message_header);
EXPORT_SYMBOL_GPL(mgmt_message_read);
EXPORT_SYMBOL_GPL(mgmt_message_put);
