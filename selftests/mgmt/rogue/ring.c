// SPDX-License-Identifier: GPL-2.0
/* The rings, as docs/wire-format.md has them, written to with no check at all. */

#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/string.h>
#include <asm/barrier.h>
#include <asm/page.h>

#include "rogue.h"

static u32 *control(struct ring *ring, u32 field)
{
	return (u32 *)(ring->base + field);
}

u32 ring_get(struct ring *ring, u32 field)
{
	return virt_load_acquire(control(ring, field));
}

void ring_set(struct ring *ring, u32 field, u32 value)
{
	virt_store_release(control(ring, field), value);
}

u8 *ring_data(struct ring *ring, u32 index)
{
	return ring->base + PAGE_SIZE + (index & (ring->size - 1));
}

void ring_copy_in(struct ring *ring, u32 index, const u8 *from, u32 len)
{
	u32 first = min(len, ring->size - (index & (ring->size - 1)));

	memcpy(ring_data(ring, index), from, first);
	memcpy(ring_data(ring, 0), from + first, len - first);
}

bool ring_has_room(struct ring *ring, u32 len)
{
	return ring->size - (ring->index - ring_get(ring, CONS)) >= len;
}

u32 ring_count_nonzero(struct ring *ring)
{
	u32 i, n = 0;

	for (i = 0; i < ring->pages * PAGE_SIZE; i++)
		n += !!ring->base[i];
	return n;
}

u32 ring_record_size(struct ring *ring, u32 length)
{
	return min_t(u64, ALIGN(8 + (u64)length, 8), ring->size);
}

void ring_put(struct ring *ring, const u8 *message, u32 len, u32 length, u32 format)
{
	static const u8 zeros[8];
	__le32 header[2] = { cpu_to_le32(length), cpu_to_le32(format) };
	u32 at = ring->index;

	ring_copy_in(ring, at, (u8 *)header, sizeof(header));
	at += sizeof(header);
	ring_copy_in(ring, at, message, len);
	at += len;
	ring_copy_in(ring, at, zeros, -at & 7);
	ring->index += ring_record_size(ring, length);
}

u32 ring_next(struct ring *ring)
{
	if (ring_get(ring, PROD) == ring->index)
		return 0;
	return ring_record_size(ring, READ_ONCE(*(u32 *)ring_data(ring, ring->index)));
}
