/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * /dev/mgmt: the M-channel device.
 *
 * One write() is one message, one read() is one message; poll() works. A message is an M-channel
 * header of MGMT_HEADER_LEN bytes and its payload; docs/wire-format.md has its layout,
 * docs/uapi.md the calls and every errno.
 */
#ifndef _UAPI_MGMT_H
#define _UAPI_MGMT_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MGMT_ABI_VERSION	1

#define MGMT_HEADER_LEN		192	/* bytes of the M-channel header */
#define MGMT_COMPONENT_LEN	32	/* bytes of an encoded Component_ID */
#define MGMT_APP_ID_LEN		32	/* bytes of an encoded App_ID, NUL padding included */

/* struct mgmt_header.kind */
#define MGMT_KIND_DISCOVER	1	/* who serves this App_ID? */
#define MGMT_KIND_ESTABLISH	2	/* opens a conversation */
#define MGMT_KIND_DATA		3	/* the application's own content */
#define MGMT_KIND_TERMINATE	4	/* closes a conversation */
#define MGMT_KIND_PRESENCE	5	/* who comes and who goes: the payload is MGMT_PRESENCE_* */
#define MGMT_KIND_REPLY		6	/* the answer to a request */
#define MGMT_KIND_UNDELIVERABLE	7	/* a message came back; only a bridge sends it */

/* struct mgmt_header.flags */
#define MGMT_FLAG_BROADCAST		(1u << 0)	/* to every endpoint of the App_ID */
#define MGMT_FLAG_REQUEST		(1u << 1)	/* a reply with the same correlation is awaited */
#define MGMT_FLAG_NO_UNDELIVERABLE	(1u << 2)	/* if it cannot be delivered, nobody wants to know */
#define MGMT_FLAG_BUNDLE		(1u << 3)	/* the payload is several messages': docs/wire-format.md */

/* struct mgmt_header.reason, of what is undeliverable */
#define MGMT_REASON_NONE		0
#define MGMT_REASON_NO_COMPONENT	1	/* no such component, or no route to it */
#define MGMT_REASON_NO_ENDPOINT		2	/* nobody has bound the App_ID there */
#define MGMT_REASON_DENIED		3	/* a rule forbids it */
#define MGMT_REASON_QUOTA		4	/* the receiver's share for this sender is used up */
#define MGMT_REASON_PEER_GONE		5	/* the receiver went away before it had read it */
#define MGMT_REASON_DEADLINE		6	/* the deadline passed */
#define MGMT_REASON_TOO_LARGE		7	/* it does not fit through a channel on its way */
#define MGMT_REASON_HOPS		8	/* it passed too many bridges */

/* struct mgmt_header.priority: the lowest of each class, which overtakes those below */
#define MGMT_PRIORITY_BULK	0
#define MGMT_PRIORITY_NORMAL	64
#define MGMT_PRIORITY_HIGH	128
#define MGMT_PRIORITY_URGENT	192

/* The first of the 8 bytes of a presence message's payload; the others are 0. */
#define MGMT_PRESENCE_LEN	8
#define MGMT_PRESENCE_WATCH	1	/* tell me who comes and goes at the destination */
#define MGMT_PRESENCE_UNWATCH	2	/* no more */
#define MGMT_PRESENCE_UP	3	/* the source is there */
#define MGMT_PRESENCE_DOWN	4	/* the source is not there, or not any more */
#define MGMT_PRESENCE_MOVED	5	/* the source is there, by this name now */

/* The first byte of a Component_ID; docs/wire-format.md has what follows. */
#define MGMT_COMPONENT_UNSPECIFIED	0
#define MGMT_COMPONENT_VM		1	/* <MVM_IP, VM_ID> */
#define MGMT_COMPONENT_STABLE		2	/* a VM's UUID */
#define MGMT_COMPONENT_HARDWARE		3	/* a serial number */
#define MGMT_COMPONENT_SELF		4	/* the sender's domain */
#define MGMT_COMPONENT_MVM		5	/* the management VM of the sender's platform */
#define MGMT_COMPONENT_PLATFORM		6	/* all domains of the sender's platform */
#define MGMT_COMPONENT_EVERYWHERE	7	/* these, and all domains of other platforms */

#define MGMT_HEADER_VERSION	1

/* <Component_ID, App_ID> */
struct mgmt_address {
	__u8	component[MGMT_COMPONENT_LEN];
	__u8	app[MGMT_APP_ID_LEN];		/* NUL-padded */
};

/* What every message begins with. The bridge stamps what is marked so. */
struct mgmt_header {
	__u8	version;		/* MGMT_HEADER_VERSION */
	__u8	kind;			/* MGMT_KIND_* */
	__u8	priority;		/* 0 (bulk) to 255 (most urgent) */
	__u8	hops;			/* stamped: bridges passed */
	__le16	flags;			/* MGMT_FLAG_* */
	__le16	reason;			/* MGMT_REASON_* */
	__le32	length;			/* bytes after this header */
	__le32	app_header_length;	/* how many of these are the application header */
	__le64	sequence;		/* stamped: number of the message among its sender's */
	__le64	correlation;		/* chosen by a requester, repeated in the reply; else 0 */
	__le32	deadline_ms;		/* milliseconds until it is not worth delivering; 0: none */
	__le32	epoch;			/* stamped: incarnation of the sender's link */
	__u8	reserved[24];		/* 0 */
	struct mgmt_address source;	/* stamped */
	struct mgmt_address destination;
};

/*
 * Others may bind the same App_ID, if they say so too. Broadcasts go to all of them, other
 * messages to the one that was first.
 */
#define MGMT_BIND_SHARED	(1u << 0)

/* MGMT_IOC_BIND: serve @app with this file. Once per file. */
struct mgmt_bind {
	__u8	app[MGMT_APP_ID_LEN];	/* NUL-padded: 1 to 31 of A-Z a-z 0-9 . _ - */
	__u32	flags;			/* MGMT_BIND_* */
	__u32	reserved[7];		/* 0 */
};

/*
 * MGMT_IOC_BIND_HARDWARE: serve the App_ID of @address in a hardware component, whose serial number is
 * its component (MGMT_COMPONENT_HARDWARE), for an agent that has that hardware in hand. Only in the
 * platform's management VM. Once per file.
 */
struct mgmt_bind_hardware {
	struct mgmt_address address;
	__u32	flags;			/* MGMT_BIND_* */
	__u32	reserved[7];		/* 0 */
};

#define MGMT_INFO_BOUND		(1u << 0)	/* this file is bound */
#define MGMT_INFO_UPLINK	(1u << 1)	/* this domain's channel to Dom-M is connected */
#define MGMT_INFO_MVM		(1u << 2)	/* this domain is a management VM (has, or may have, guests) */

/* MGMT_IOC_INFO: what this file and this domain are. */
struct mgmt_info {
	__u32	abi;				/* MGMT_ABI_VERSION */
	__u32	flags;				/* MGMT_INFO_* */
	__u8	component[MGMT_COMPONENT_LEN];	/* this domain's Component_ID; all zero if unknown */
	__u8	app[MGMT_APP_ID_LEN];		/* the bound App_ID, or all zero */
	__u32	max_payload;			/* bytes of the largest payload that write() takes: 1 MiB */
	__u32	queue_bytes;			/* capacity of this file's receive queue, bytes */
	__u32	links;				/* links to guests (Dom-M), parked ones too */
	__u32	endpoints;			/* bound App_IDs in this domain */
	__u32	reserved[8];			/* 0 */
};

/* MGMT_IOC_SET_MVM: the address (MVM_IP) of this management VM. CAP_SYS_ADMIN. */
struct mgmt_mvm {
	__u8	ip[16];			/* IPv6, or IPv4-mapped IPv6 */
	__u32	reserved[4];		/* 0 */
};

/* struct mgmt_link.state */
#define MGMT_LINK_CONNECTING	1
#define MGMT_LINK_CONNECTED	2
#define MGMT_LINK_CLOSED	3	/* parked: it waits for its next channel */

#define MGMT_LINK_UPLINK	0xffffffffu	/* struct mgmt_link.id of the channel to Dom-M */

/*
 * MGMT_IOC_LINK: the counters of the link with the smallest id that is not below @id. Start with
 * 0 and go on with the returned id + 1 until ENOENT. CAP_SYS_ADMIN.
 */
struct mgmt_link {
	__u32	id;			/* in and out: VM_ID of the guest, or MGMT_LINK_UPLINK */
	__u32	state;			/* MGMT_LINK_* */
	__u64	rx_messages;		/* taken from the channel, and valid */
	__u64	rx_bytes;
	__u64	tx_messages;		/* put into the channel */
	__u64	tx_bytes;
	__u64	undeliverable;		/* messages of this link that went back to it */
	__u64	stalls;			/* times that a receiver had no room for what came by this link */
	__u32	queued_messages;	/* waiting for room in the channel */
	__u32	queued_bytes;
	__u32	epoch;			/* incarnation of the link */
	__u32	reserved[5];
};

/*
 * MGMT_IOC_POLICY_LOAD: the rules of who may talk to whom (docs/policy.md), in the place of those
 * that hold; an empty text for the built-in ones alone. If a line is wrong, EINVAL, @line and
 * @column say where, and nothing has changed. CAP_SYS_ADMIN.
 */
struct mgmt_policy_load {
	__u64	text;			/* where the rules are */
	__u32	length;			/* their bytes */
	__u32	line;			/* out: of a mistake, from 1; else 0 */
	__u32	column;			/* out: of a mistake, from 1; else 0 */
	__u32	reserved[3];		/* 0 */
};

/* MGMT_IOC_POLICY_READ: the rules that hold. ENOSPC if there is no room. CAP_SYS_ADMIN. */
struct mgmt_policy_read {
	__u64	text;			/* where they go */
	__u32	length;			/* in: bytes of room there; out: of the rules */
	__u32	rules;			/* out: how many there are */
	__u32	reserved[4];		/* 0 */
};

#define MGMT_RULE_BUILT_IN	0x10000u	/* struct mgmt_rule.rule: the first built-in one */

/* MGMT_IOC_RULE: what one rule has decided; ENOENT if there is none. CAP_SYS_ADMIN. */
struct mgmt_rule {
	__u32	rule;			/* in: its number, from 0, or from MGMT_RULE_BUILT_IN */
	__u32	line;			/* out: where it stands in the text, from 1; 0: built in */
	__u64	hits;			/* out: how often it has decided since it was loaded */
	__u32	reserved[4];		/* 0 */
};

/* struct mgmt_account.kind: whose it is */
#define MGMT_ACCOUNT_UID	1	/* a user of this domain; @id is the number */
#define MGMT_ACCOUNT_GUEST	2	/* a guest; @id is its VM_ID */
#define MGMT_ACCOUNT_UPLINK	3	/* Dom-M, in a guest; @id is 0 */
#define MGMT_ACCOUNT_FABRIC	4	/* other platforms; @id is 0 */

/* Of what an account may hold. */
struct mgmt_slots {
	__u32	bytes;			/* of messages on their way to the owner's receivers */
	__u32	messages;		/* how many these are */
	__u32	endpoints;		/* bound App_IDs */
	__u32	watches;
	__u32	replies;		/* requests that await their reply */
	__u32	pages;			/* granted to the owner */
};

/*
 * MGMT_IOC_ACCOUNT: the account with the smallest (@kind, @id) that is not below the given one.
 * Start with 0, 0 and go on with the returned @id + 1 (after the largest @id with @kind + 1) until
 * ENOENT. CAP_SYS_ADMIN.
 */
struct mgmt_account {
	__u32	kind;			/* in and out: MGMT_ACCOUNT_* */
	__u32	id;			/* in and out */
	struct mgmt_slots used;
	struct mgmt_slots max;
	__u64	refusals;		/* how often there was no room for something */
	__u32	reserved[4];		/* 0 */
};

/*
 * MGMT_IOC_FABRIC: this file, which is not bound, carries the link to other platforms. A read() is
 * the number of a message (__le64) and the message, whose destination is not of this platform, or
 * MGMT_COMPONENT_EVERYWHERE: all others. A write() is a message whose source is not. Neither waits.
 * CAP_SYS_ADMIN.
 */
struct mgmt_fabric {
	__u64	lineage;		/* out: of the link; the same if it is the one of an earlier file */
	__u64	accepted;		/* out: messages that were written to the link */
	__u32	reserved[4];		/* 0 */
};

/* MGMT_IOC_FABRIC_SETTLE: what became of a message that was read. ENOENT if that is known. */
struct mgmt_fabric_settle {
	__u64	number;
	__u32	reason;			/* 0: another platform has it; MGMT_REASON_*: it comes back */
	__u32	reserved;		/* 0 */
};

/*
 * MGMT_IOC_FABRIC_MOVED: the guest with this stable name is on another platform now: what waits for
 * it here can be read from this file. ENOENT if no link here leads to it; EBUSY while that link has
 * a channel, or anything that the guest had sent waits for room here.
 */
struct mgmt_fabric_moved {
	__u8	uuid[16];
	__u32	reserved[4];		/* 0 */
};

/*
 * MGMT_IOC_FABRIC_HERE: the guest with this stable name, which has come from another platform, has all
 * that was on its way to it there. From now on its name leads to it here; what was read from this file
 * for it since the number @from, and what waits to be read, goes to it and is settled. Nothing happens
 * if it has not just come. ENOENT if no link here leads to it.
 */
struct mgmt_fabric_here {
	__u8	uuid[16];
	__u64	from;			/* a number; ~0: nothing that was read */
	__u32	reserved[2];		/* 0 */
};

/*
 * MGMT_IOC_FABRIC_PLATFORM: another platform is there, for the first time or again, or is gone. Who
 * watches somebody there is told, and asks anew. The link forgets nothing else by that.
 */
struct mgmt_fabric_platform {
	__u8	mvm_ip[16];
	__u32	is_there;		/* 1, or 0: it is gone */
	__u32	reserved[3];		/* 0 */
};

/*
 * MGMT_IOC_HARDWARE: the hardware component that this domain serves, with the smallest serial number (in
 * the order of bytes) behind the one of @component; all zero: the first. ENOENT if there is none.
 * CAP_SYS_ADMIN.
 */
struct mgmt_hardware {
	__u8	component[MGMT_COMPONENT_LEN];	/* in and out */
	__u32	reserved[4];		/* 0 */
};

/*
 * MGMT_IOC_FABRIC_HARDWARE: another platform has the hardware of this component, or none has it any
 * more. Who watches it is told, and asks anew. The link forgets nothing else by that.
 */
struct mgmt_fabric_hardware {
	__u8	component[MGMT_COMPONENT_LEN];
	__u32	is_there;		/* 1, or 0: it is gone */
	__u32	reserved[3];		/* 0 */
};

/*
 * MGMT_IOC_EXCHANGE: send messages, then receive some, in one call. They lie one right behind the
 * other. All of @send is sent as by write(); then, if @receive_length is not 0, the first message is
 * waited for as by read(), and those that are there and fit follow it.
 *
 * Fails only if nothing was sent or received. Else what follows an error is not done, and @send_length
 * and @receive_length tell: who goes on from there gets the error, if it lasts.
 */
struct mgmt_exchange {
	__u64	send;			/* where the messages are */
	__u64	receive;		/* where they go */
	__u32	send_length;		/* in: bytes at @send; out: of those that were accepted */
	__u32	receive_length;		/* in: bytes of room at @receive; out: of those received */
	__u32	reserved[4];		/* 0 */
};

#define MGMT_IOC_MAGIC		0xCE
#define MGMT_IOC_BIND		_IOW(MGMT_IOC_MAGIC, 1, struct mgmt_bind)
#define MGMT_IOC_INFO		_IOR(MGMT_IOC_MAGIC, 2, struct mgmt_info)
#define MGMT_IOC_SET_MVM	_IOW(MGMT_IOC_MAGIC, 3, struct mgmt_mvm)
#define MGMT_IOC_LINK		_IOWR(MGMT_IOC_MAGIC, 4, struct mgmt_link)
#define MGMT_IOC_POLICY_LOAD	_IOWR(MGMT_IOC_MAGIC, 5, struct mgmt_policy_load)
#define MGMT_IOC_POLICY_READ	_IOWR(MGMT_IOC_MAGIC, 6, struct mgmt_policy_read)
#define MGMT_IOC_RULE		_IOWR(MGMT_IOC_MAGIC, 7, struct mgmt_rule)
#define MGMT_IOC_ACCOUNT	_IOWR(MGMT_IOC_MAGIC, 8, struct mgmt_account)
#define MGMT_IOC_FABRIC		_IOWR(MGMT_IOC_MAGIC, 9, struct mgmt_fabric)
#define MGMT_IOC_FABRIC_SETTLE	_IOW(MGMT_IOC_MAGIC, 10, struct mgmt_fabric_settle)
#define MGMT_IOC_FABRIC_MOVED	_IOW(MGMT_IOC_MAGIC, 11, struct mgmt_fabric_moved)
#define MGMT_IOC_EXCHANGE	_IOWR(MGMT_IOC_MAGIC, 12, struct mgmt_exchange)
#define MGMT_IOC_FABRIC_HERE	_IOW(MGMT_IOC_MAGIC, 13, struct mgmt_fabric_here)
#define MGMT_IOC_FABRIC_PLATFORM _IOW(MGMT_IOC_MAGIC, 14, struct mgmt_fabric_platform)
#define MGMT_IOC_BIND_HARDWARE	_IOW(MGMT_IOC_MAGIC, 15, struct mgmt_bind_hardware)
#define MGMT_IOC_HARDWARE	_IOWR(MGMT_IOC_MAGIC, 16, struct mgmt_hardware)
#define MGMT_IOC_FABRIC_HARDWARE _IOW(MGMT_IOC_MAGIC, 17, struct mgmt_fabric_hardware)

#endif /* _UAPI_MGMT_H */
