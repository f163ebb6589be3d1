/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: the kernel's Xen interfaces, and our own helpers. */
#include <linux/capability.h>
#include <linux/interrupt.h>
#include <xen/events.h>
#include <xen/grant_table.h>
#include <xen/xenbus.h>
#include <mgmt.h>
#include <uapi/mgmt.h>
#include "helpers.h"
