// SPDX-License-Identifier: GPL-2.0

#include <linux/gfp.h>
#include <linux/interrupt.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <asm/barrier.h>
#include <xen/grant_table.h>
#include <xen/page.h>
#include <xen/xen.h>
#include <xen/xenbus.h>

#include "bh_helpers.h"
#include "helpers.h"
#include <mgmt.h>

static_assert(sizeof(struct mgmt_header) == MGMT_HEADER_LEN);
static_assert(offsetof(struct mgmt_header, source) == 64);

struct workqueue_struct *mgmt_helper_alloc_workqueue(const char *name, bool bh)
{
	return alloc_workqueue("%s", bh ? WQ_BH | WQ_PERCPU : WQ_UNBOUND, 0, name);
}

void mgmt_helper_tasklet_schedule(struct tasklet_struct *tasklet)
{
	tasklet_schedule(tasklet);
}

bool mgmt_helper_may_sleep(gfp_t gfp)
{
	return gfpflags_allow_blocking(gfp);
}

void mgmt_helper_xenbus_dev_error(struct xenbus_device *dev, int err, const char *what)
{
	xenbus_dev_error(dev, err, "%s", what);
}

u32 mgmt_helper_random(void)
{
	return get_random_u32();
}

bool mgmt_helper_xen_domain(void)
{
	return xen_domain();
}

bool mgmt_helper_xen_initial_domain(void)
{
	return xen_initial_domain();
}

/* A full barrier against another domain, also where this kernel runs on one CPU. */
void mgmt_helper_virt_mb(void)
{
	virt_mb();
}

/*
 * Copies to or from memory that another domain may write meanwhile. Out of line, so that no
 * compiler reads the shared side a second time (XSA-155).
 */
noinline void mgmt_helper_copy_shared(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
	barrier();
}

/* Grants the page at @addr, read-write. Returns the reference or a negative errno. */
int mgmt_helper_grant_page(domid_t domid, void *addr)
{
	return gnttab_grant_foreign_access(domid, virt_to_gfn(addr), 0);
}

/*
 * Ends the grant and drops the page, now or, if the other side still maps it, when it no longer
 * does: a page that another domain can write is never reused (XSA-396).
 */
void mgmt_helper_end_grant(grant_ref_t ref, void *addr)
{
	gnttab_end_foreign_access(ref, virt_to_page(addr));
}

/* Drops one page of an alloc_pages_exact() allocation. */
void mgmt_helper_put_page(void *addr)
{
	put_page(virt_to_page(addr));
}

/* The frame of the page at @addr, which vmalloc() made, as other domains know it. */
unsigned long mgmt_helper_vmalloc_gfn(const void *addr)
{
	return xen_page_to_gfn(vmalloc_to_page(addr));
}
