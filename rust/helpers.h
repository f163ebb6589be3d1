/* SPDX-License-Identifier: GPL-2.0 */
/* C functions for what bindgen cannot bind: variadic and inline functions, and macros. */
#ifndef _MGMT_HELPERS_H
#define _MGMT_HELPERS_H

#include <linux/spinlock_types.h>
#include <linux/types.h>
#include <xen/grant_table.h>

struct tasklet_struct;
struct workqueue_struct;
struct xenbus_device;

struct workqueue_struct *mgmt_helper_alloc_workqueue(const char *name, bool bh);

void mgmt_helper_tasklet_schedule(struct tasklet_struct *tasklet);

bool mgmt_helper_may_sleep(gfp_t gfp);

void mgmt_helper_spin_lock_bh(spinlock_t *lock);
bool mgmt_helper_spin_trylock_bh(spinlock_t *lock);
void mgmt_helper_spin_unlock_bh(spinlock_t *lock);

void mgmt_helper_xenbus_dev_error(struct xenbus_device *dev, int err, const char *what);

u32 mgmt_helper_random(void);

bool mgmt_helper_xen_domain(void);
bool mgmt_helper_xen_initial_domain(void);

void mgmt_helper_virt_mb(void);
void mgmt_helper_copy_shared(void *to, const void *from, size_t len);

int mgmt_helper_grant_page(domid_t domid, void *addr);
void mgmt_helper_end_grant(grant_ref_t ref, void *addr);
void mgmt_helper_put_page(void *addr);
unsigned long mgmt_helper_vmalloc_gfn(const void *addr);

/* What happens to a message. */
enum mgmt_trace_point {
	MGMT_TRACE_SEND,
	MGMT_TRACE_ROUTE,
	MGMT_TRACE_DELIVER,
	MGMT_TRACE_DROP,
};

/* A message, as it is traced. */
struct mgmt_traced {
	const char *source;
	const char *destination;
	const char *account;
	u64 sequence;
	u64 correlation;
	u32 length;
	u16 reason;
	u16 flags;
	u8 kind;
	u8 priority;
};

bool mgmt_helper_is_traced(enum mgmt_trace_point point);
void mgmt_helper_trace(enum mgmt_trace_point point, const struct mgmt_traced *message);

#endif /* _MGMT_HELPERS_H */
