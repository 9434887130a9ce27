// SPDX-License-Identifier: Apache-2.0
//
// Counts what sockets send and receive, by local address, remote address and protocol.
//
// Attached to a cgroup v2 as cgroup_skb/egress and cgroup_skb/ingress, of Linux 5.10 or later: it needs cgroup links
// (5.7), boot time in a program (5.8) and maps of maps whose inner maps may differ in size (5.10). It reads the packet and
// no structure of the kernel, so there is nothing to relocate and it needs no BTF of the kernel's.
//
// Two tables take turns: programs count in the one that `active` names, userland reads the other. When userland changes
// `active`, the kernel waits until no program that saw the table before is still running, so what is read stands still.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define SOCK_RAW 3
#define LOOPBACK_IFINDEX 1 /* In every network namespace (include/net/flow.h). */

#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_AH 51
#define IPPROTO_DSTOPTS 60
#define EXTENSIONS_MAX 6

/* Userland sets the real bound before it loads. */
#define ENTRIES_MAX 1

enum direction { SENT, RECEIVED };

/* An IPv4 address stands in the first four bytes, the rest is zero. */
struct pair {
	__u8 local[16];
	__u8 remote[16];
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u8 padding[2];
};

struct sums {
	__u64 begun_ns; /* CLOCK_BOOTTIME of the first packet. */
	__u64 tx_bytes;
	__u64 tx_packets;
	__u64 rx_bytes;
	__u64 rx_packets;
};

/* What is in no table. */
struct uncounted {
	__u64 full_bytes; /* The table had no room for another pair. */
	__u64 full_packets;
	__u64 unread_bytes; /* Not IP, or cut short. */
	__u64 unread_packets;
};

struct table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENTRIES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pair);
	__type(value, struct sums);
} table_0 SEC(".maps"), table_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct table);
} active SEC(".maps") = { .values = { &table_0 } };

/*
 * For userland alone: by table, the real-time clock less the time since boot in nanoseconds, as of when its turn began.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} booted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct uncounted);
} lost SEC(".maps");

struct ipv4 {
	__u8 version_length;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__sum16 checksum;
	__u8 source[4];
	__u8 destination[4];
};

struct ipv6 {
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};

static __always_inline int read_ipv4(struct __sk_buff *skb, enum direction direction, struct pair *pair)
{
	struct ipv4 header;

	if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
		return -1;
	/* Multicast, reserved and the limited broadcast: no pod's address. */
	if (header.destination[0] >= 224)
		return 1;
	pair->family = 4;
	pair->protocol = header.protocol;
	__builtin_memcpy(pair->local, direction == SENT ? header.source : header.destination, 4);
	__builtin_memcpy(pair->remote, direction == SENT ? header.destination : header.source, 4);
	return 0;
}

static __always_inline int read_ipv6(struct __sk_buff *skb, enum direction direction, struct pair *pair)
{
	struct ipv6 header;
	__u8 extension[2];
	__u32 offset = sizeof(header);
	int i;

	if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
		return -1;
	if (header.destination[0] == 0xff)
		return 1;
	pair->family = 6;
	pair->protocol = header.next_header;
#pragma unroll
	for (i = 0; i < EXTENSIONS_MAX; i++) {
		switch (pair->protocol) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_FRAGMENT:
		case IPPROTO_AH:
		case IPPROTO_DSTOPTS:
			break;
		default:
			goto known;
		}
		if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
			return -1;
		if (pair->protocol == IPPROTO_FRAGMENT)
			offset += 8;
		else if (pair->protocol == IPPROTO_AH)
			offset += (extension[1] + 2) * 4;
		else
			offset += (extension[1] + 1) * 8;
		pair->protocol = extension[0];
	}
known:
	__builtin_memcpy(pair->local, direction == SENT ? header.source : header.destination, 16);
	__builtin_memcpy(pair->remote, direction == SENT ? header.destination : header.source, 16);
	return 0;
}

static __always_inline void add(struct sums *sums, enum direction direction, __u32 bytes)
{
	if (direction == SENT) {
		__sync_fetch_and_add(&sums->tx_bytes, bytes);
		__sync_fetch_and_add(&sums->tx_packets, 1);
	} else {
		__sync_fetch_and_add(&sums->rx_bytes, bytes);
		__sync_fetch_and_add(&sums->rx_packets, 1);
	}
}

static __always_inline int count(struct __sk_buff *skb, enum direction direction)
{
	struct pair pair = {};
	struct uncounted *uncounted;
	struct sums *sums;
	void *table;
	__u32 zero = 0;
	int unread;

	if (skb->ifindex == LOOPBACK_IFINDEX)
		return 1;
	if (direction == RECEIVED) {
		/* Each raw socket gets a copy of what a socket of its own receives as well. */
		struct bpf_sock *sock = skb->sk;

		sock = sock ? bpf_sk_fullsock(sock) : sock;
		if (sock && sock->type == SOCK_RAW)
			return 1;
	}
	if (skb->protocol == bpf_htons(ETH_P_IP))
		unread = read_ipv4(skb, direction, &pair);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		unread = read_ipv6(skb, direction, &pair);
	else
		unread = -1;
	if (unread > 0)
		return 1;
	if (unread < 0) {
		uncounted = bpf_map_lookup_elem(&lost, &zero);
		if (uncounted) {
			/* A packet that comes may interrupt the counting of one that goes. */
			__sync_fetch_and_add(&uncounted->unread_bytes, skb->len);
			__sync_fetch_and_add(&uncounted->unread_packets, 1);
		}
		return 1;
	}

	table = bpf_map_lookup_elem(&active, &zero);
	if (!table)
		return 1;
	sums = bpf_map_lookup_elem(table, &pair);
	if (!sums) {
		struct sums fresh = { .begun_ns = bpf_ktime_get_boot_ns() };

		/* Fails when another processor was faster, which is as good, or when the table is full. */
		bpf_map_update_elem(table, &pair, &fresh, BPF_NOEXIST);
		sums = bpf_map_lookup_elem(table, &pair);
	}
	if (sums) {
		add(sums, direction, skb->len);
		return 1;
	}
	uncounted = bpf_map_lookup_elem(&lost, &zero);
	if (uncounted) {
		__sync_fetch_and_add(&uncounted->full_bytes, skb->len);
		__sync_fetch_and_add(&uncounted->full_packets, 1);
	}
	return 1;
}

SEC("cgroup_skb/egress")
int count_sent(struct __sk_buff *skb)
{
	return count(skb, SENT);
}

SEC("cgroup_skb/ingress")
int count_received(struct __sk_buff *skb)
{
	return count(skb, RECEIVED);
}

char LICENSE[] SEC("license") = "Apache-2.0";
