/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A hostile end of an M-channel, for tests: it takes the place of mgmtfront in
 * a guest (role=front) or of mgmtback for one guest (role=back), connects by
 * the rules of docs/wire-format.md, and then breaks those that it is told to.
 *
 *   main.c      the module, its files in debugfs, and the one device
 *   ring.c      the rings, written to with no check at all
 *   front.c     the frontend: what it offers, and when
 *   back.c      the backend: what it maps, and what it keeps
 *   pages.c     pages of large messages: lent, and mapped
 *   commands.c  the attacks that a test can ask for
 *
 * In debugfs, mgmt_rogue/:
 *
 *   command   write: runs one of the commands in the table of commands.c, and
 *             returns when that is done
 *   status    counters
 *   rx        takes the next record of the other end, and shows it in
 *             hexadecimal, its padding included
 *   and a file for each of struct knobs
 */
#ifndef MGMT_ROGUE_H
#define MGMT_ROGUE_H

#include <linux/interrupt.h>
#include <linux/rwsem.h>
#include <linux/types.h>
#include <xen/grant_table.h>
#include <xen/xenbus.h>

#define MAX_ORDER 3
#define MAX_PAGES (1 + (1 << MAX_ORDER))

/* Offsets in the control page. */
#define PROD 0
#define CONS_EVENT 4
#define CONS 64
#define PROD_EVENT 68

enum grants {
	GRANTS_GOOD,
	GRANTS_READONLY,
	GRANTS_OTHER,	/* to the domain `grantee` */
	GRANTS_SAME,	/* all references are that of one page */
	GRANTS_GONE,	/* ended between publishing and Initialised */
	GRANTS_SWAPPED,	/* control pages last */
};

enum stop {
	STOP_NEVER,
	STOP_SILENT,	/* says nothing */
	STOP_NODES,	/* writes its nodes, but not its state */
	STOP_OFFERED,	/* never answers Connected */
};

/* How the next connection is made. */
struct knobs {
	u32 order;	/* pages of data in each ring, as a power of two */
	u32 grants;	/* how the rings are granted: enum grants; front only */
	u32 grantee;
	u32 port;	/* event channel to publish instead of the right one; front only */
	u32 stop;	/* where connecting stops: enum stop */
	u32 again;	/* start anew whenever the channel was closed; front only */
	u32 hold;	/* keep the rings mapped when the frontend closes; back only */
};

struct ring {
	u8 *base;	/* the control page, then the data */
	u32 size;	/* bytes of data */
	u32 index;	/* our own: produced, or consumed */
	u32 pages;
	grant_ref_t refs[MAX_PAGES];	/* front: INVALID_GRANT_REF without one */
};

/* One device is enough. */
struct rogue {
	/* Attacks read; who makes or frees the rings writes. */
	struct rw_semaphore lock;
	bool stopping;	/* somebody wants to write */
	bool leaving;
	bool connected;
	struct xenbus_device *dev;
	struct ring tx, rx;
	int irq;

	/* Rings kept mapped, and what was in them. */
	struct ring held[2];
	u8 *snapshot[2];

	/* Pages of a large message kept mapped, and bytes of the last that are not zero. */
	u32 mapped, tail;

	u32 connects, closings, sent, revoked, nonzero;
};

extern struct knobs knobs;
extern struct rogue rogue;
extern const struct xenbus_device_id rogue_ids[];

/* main.c */
irqreturn_t rogue_interrupt(int irq, void *unused);
void rogue_set_connected(void);
/* Ends what attacks do; up_write(&rogue.lock) lets others begin. */
void rogue_stop_attacks(void);
void rogue_close_port(void);

/* ring.c */
u32 ring_get(struct ring *ring, u32 field);
void ring_set(struct ring *ring, u32 field, u32 value);
u8 *ring_data(struct ring *ring, u32 index);
void ring_copy_in(struct ring *ring, u32 index, const u8 *from, u32 len);
bool ring_has_room(struct ring *ring, u32 len);
u32 ring_count_nonzero(struct ring *ring);
u32 ring_record_size(struct ring *ring, u32 length);
/* Adds a record of @len bytes that says that it has @length. */
void ring_put(struct ring *ring, const u8 *message, u32 len, u32 length, u32 format);
/* The next record of the other end, its padding included: where, and how many bytes. */
u32 ring_next(struct ring *ring);

/* front.c, back.c */
extern struct xenbus_driver front_driver, back_driver;
u32 front_revoke(struct ring *ring);
void back_release(void);
u32 back_count_changed(void);

/* pages.c */
enum lend {
	LEND_GOOD,
	LEND_OTHER,	/* to the domain `grantee` */
	LEND_GONE,	/* ended at once */
};

/* Makes pages, each filled with its number from 1, and grants them. */
int pages_lend(u32 count, enum lend how);
void pages_take_back(void);
/* Writes the references of what is lent, and returns how many. */
u32 pages_refs(__le32 *refs);
/* Maps pages of the other end. */
int pages_map(const __le32 *refs, u32 count, bool writable);
void pages_unmap(void);

/* commands.c */
int command_run(char *text);
/* Tells the other end. */
void command_notify(void);

#endif
