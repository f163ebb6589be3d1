// SPDX-License-Identifier: GPL-2.0
/* Pages outside of the rings, which large messages are made of: our own, and the other end's. */

#include <linux/mm.h>
#include <linux/string.h>
#include <xen/grant_table.h>
#include <xen/page.h>

#include "rogue.h"

#define MAX_LENT 256
#define MAX_TAKEN 256

static struct {
	void *page;
	grant_ref_t ref;
} lent[MAX_LENT];
static u32 lent_count;

static struct page *taken[MAX_TAKEN];
static grant_handle_t handles[MAX_TAKEN];
static u32 taken_count;

/* -- ours -- */

int pages_lend(u32 count, enum lend how)
{
	domid_t to = how == LEND_OTHER ? knobs.grantee : rogue.dev->otherend_id;
	int ref;

	pages_take_back();
	while (lent_count < min_t(u32, count, MAX_LENT)) {
		void *page = (void *)get_zeroed_page(GFP_KERNEL);

		if (!page)
			return -ENOMEM;
		memset(page, 1 + lent_count % 255, PAGE_SIZE);
		ref = gnttab_grant_foreign_access(to, virt_to_gfn(page), 1);
		if (ref < 0) {
			free_page((unsigned long)page);
			return ref;
		}
		if (how == LEND_GONE)
			gnttab_end_foreign_access_ref(ref);
		lent[lent_count].page = page;
		lent[lent_count++].ref = ref;
	}
	return 0;
}

void pages_take_back(void)
{
	while (lent_count) {
		lent_count--;
		gnttab_end_foreign_access(lent[lent_count].ref,
					  virt_to_page(lent[lent_count].page));
	}
}

u32 pages_refs(__le32 *refs)
{
	u32 i;

	for (i = 0; i < lent_count; i++)
		refs[i] = cpu_to_le32(lent[i].ref);
	return lent_count;
}

/* -- the other end's -- */

/* Counts those that Xen let it map, and what is in the last. */
int pages_map(const __le32 *refs, u32 count, bool writable)
{
	static struct gnttab_map_grant_ref ops[MAX_TAKEN];
	u32 i, flags = GNTMAP_host_map | (writable ? 0 : GNTMAP_readonly);
	int err;

	pages_unmap();
	count = min_t(u32, count, MAX_TAKEN);
	err = gnttab_alloc_pages(count, taken);
	if (err)
		return err;
	taken_count = count;
	for (i = 0; i < count; i++)
		gnttab_set_map_op(&ops[i], (unsigned long)page_address(taken[i]), flags,
				  le32_to_cpu(refs[i]),
				  rogue.dev->otherend_id);
	err = gnttab_map_refs(ops, NULL, taken, count);
	rogue.mapped = 0;
	rogue.tail = 0;
	for (i = 0; i < count; i++) {
		handles[i] = ops[i].status ? INVALID_GRANT_HANDLE : ops[i].handle;
		rogue.mapped += !ops[i].status;
	}
	if (count && handles[count - 1] != INVALID_GRANT_HANDLE)
		for (i = 0; i < PAGE_SIZE; i++)
			rogue.tail += !!((u8 *)page_address(taken[count - 1]))[i];
	return err;
}

void pages_unmap(void)
{
	struct gnttab_unmap_grant_ref op;
	u32 i;

	for (i = 0; i < taken_count; i++) {
		if (handles[i] == INVALID_GRANT_HANDLE)
			continue;
		gnttab_set_unmap_op(&op, (unsigned long)page_address(taken[i]), GNTMAP_host_map,
				    handles[i]);
		gnttab_unmap_refs(&op, NULL, &taken[i], 1);
	}
	gnttab_free_pages(taken_count, taken);
	taken_count = 0;
	rogue.mapped = 0;
}
