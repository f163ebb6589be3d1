/* SPDX-License-Identifier: GPL-2.0 */
/* What mgmt_ipmi.ko uses of the kernel's IPMI interface: smi.c, smi.rs. */
#ifndef _MGMT_IPMI_SMI_H
#define _MGMT_IPMI_SMI_H

#include <linux/types.h>

struct ipmi_user;

/* In smi.rs. @bridge is that of mgmt_ipmi_start(). Tasks; none but the work may wait for the work. */
void mgmt_ipmi_found(void *bridge, int interface);
void mgmt_ipmi_gone(void *bridge, int interface);
void mgmt_ipmi_work(void *bridge);
void mgmt_ipmi_response(void *bridge, u64 id, u8 netfn, u8 command, const u8 *data, size_t length);
void mgmt_ipmi_event(void *bridge, const u8 *data, size_t length);

/* The machine's serial number, or what the module's parameter says in its place; NULL without one. */
const char *mgmt_ipmi_serial(void);

/* From here on interfaces are told of, and work is done. */
int mgmt_ipmi_start(void *bridge);
/* From here on no interface is told of. */
void mgmt_ipmi_stop_watching(void);
/* From here on no work is done, unless it is asked for. */
void mgmt_ipmi_stop_work(void);

/* Has mgmt_ipmi_work() called at once, or in @ms at the latest. Any context. */
void mgmt_ipmi_work_now(void);
void mgmt_ipmi_work_within(unsigned int ms);

/* A user of an interface who gets responses and events. */
int mgmt_ipmi_create_user(void *bridge, int interface, struct ipmi_user **user);
void mgmt_ipmi_destroy_user(struct ipmi_user *user);

/* Sends a request to the BMC itself. The response comes with @id, if the interface stays. */
int mgmt_ipmi_request(struct ipmi_user *user, u64 id, u8 netfn, u8 command, const u8 *data,
		      u16 length);

#endif /* _MGMT_IPMI_SMI_H */
