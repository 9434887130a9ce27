// SPDX-License-Identifier: Apache-2.0
//
// Copies what sockets receive from port 53, over UDP and TCP, into a ring buffer.
//
// Attached to a cgroup v2 as cgroup_skb/ingress, of Linux 5.10 or later: it needs cgroup links (5.7), a ring buffer and the
// time since boot in a program (5.8), and a loop (5.3). It reads the packet and no structure of the kernel, so there is
// nothing to relocate and it needs no BTF of the kernel's. It lets every packet through.
//
// What a socket on a loopback address receives is left out: a resolver of the same machine or pod answers there, and was
// answered itself, at an address that says whose it is. What comes back over loopback to another address (a mesh's proxy
// that takes questions over) says who asked, and is copied.
//
// Nobody is woken: userland looks when it is time, and what does not fit until then is counted.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IPPROTO_HOPOPTS 0
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ROUTING 43
#define IPPROTO_DSTOPTS 60
#define EXTENSIONS_MAX 4

#define DNS_PORT 53

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04

/* Of a datagram, and of a part of a segment; a power of two. */
#define DATA_MAX 4096
/* Parts of the largest segment that the kernel puts together. */
#define PARTS_MAX 16

/* Userland sets the real size before it loads. */
#define RING_BYTES 4096

/* In the host's byte order but for addresses; an IPv4 address stands in the first four bytes, the rest is zero. */
struct head {
	__u64 boot_ns; /* CLOCK_BOOTTIME. */
	__u32 sequence; /* TCP's, of the first byte that follows. */
	__u32 length; /* Of the datagram, or of the part: what follows, unless it was cut. */
	__u16 local_port;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 padding[3];
	__u8 local[16];
	__u8 remote[16];
};

struct part {
	struct head head;
	__u8 data[DATA_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} parts SEC(".maps");

/* A part before it is in the ring: the stack is too small. Packets are received with softirqs off, so it is not shared. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct part);
} scratch SEC(".maps");

struct counts {
	__u64 put; /* Parts in the ring. */
	__u64 lost; /* Parts for which it had no room. */
	__u64 unread; /* Packets that cannot be read. */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

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

struct ports {
	__be16 source;
	__be16 destination;
};

struct tcp {
	struct ports ports;
	__be32 sequence;
	__be32 acknowledged;
	__u8 data_offset;
	__u8 flags;
	__be16 window;
};

/* 127.0.0.0/8 and ::1. */
static __always_inline int is_loopback(const struct head *head)
{
	const __u64 *halves = (const void *)head->local;

	return head->family == 4 ? head->local[0] == 127 : halves[0] == 0 && halves[1] == bpf_cpu_to_be64(1);
}

/* Where the packet's payload begins, with `head` filled in; 0 for what is not an answer, less when it cannot be read. */
static __always_inline int read(struct __sk_buff *skb, struct head *head)
{
	struct ports ports;
	__u32 offset;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4 header;

		if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
			return -1;
		head->family = 4;
		head->protocol = header.protocol;
		__builtin_memcpy(head->local, header.destination, 4);
		__builtin_memcpy(head->remote, header.source, 4);
		offset = (header.version_length & 0xf) * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6 header;
		__u8 extension[2];
		int i;

		if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
			return -1;
		head->family = 6;
		head->protocol = header.next_header;
		__builtin_memcpy(head->local, header.destination, 16);
		__builtin_memcpy(head->remote, header.source, 16);
		offset = sizeof(header);
#pragma unroll
		for (i = 0; i < EXTENSIONS_MAX; i++) {
			if (head->protocol != IPPROTO_HOPOPTS && head->protocol != IPPROTO_ROUTING &&
			    head->protocol != IPPROTO_DSTOPTS)
				break;
			if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
				return -1;
			offset += (extension[1] + 1) * 8;
			head->protocol = extension[0];
		}
	} else {
		return 0;
	}
	if (head->protocol != IPPROTO_UDP && head->protocol != IPPROTO_TCP)
		return 0;
	if (bpf_skb_load_bytes(skb, offset, &ports, sizeof(ports)))
		return -1;
	if (ports.source != bpf_htons(DNS_PORT) || is_loopback(head))
		return 0;
	head->local_port = bpf_ntohs(ports.destination);
	if (head->protocol == IPPROTO_UDP)
		return offset + 8;

	struct tcp tcp;

	if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
		return -1;
	head->sequence = bpf_ntohl(tcp.sequence);
	head->tcp_flags = tcp.flags;
	return offset + (tcp.data_offset >> 4) * 4;
}

/* Puts `size` bytes from `offset` into the ring behind the head, which is in the scratch already. */
static __always_inline void put(struct __sk_buff *skb, struct part *part, struct counts *counts, __u32 offset,
				__u64 size)
{
	/* The verifier is to see the bounds of what is passed on, and not of what the compiler makes of it. */
	asm volatile("" : "+r"(size));
	if (size > DATA_MAX)
		return;
	if (size > 0 && bpf_skb_load_bytes(skb, offset, part->data, size)) {
		counts->unread += 1;
		return;
	}
	if (bpf_ringbuf_output(&parts, part, sizeof(part->head) + size, BPF_RB_NO_WAKEUP))
		counts->lost += 1;
	else
		counts->put += 1;
}

SEC("cgroup_skb/ingress")
int trace_received(struct __sk_buff *skb)
{
	struct head head = {};
	struct counts *counted;
	struct part *part;
	__u32 zero = 0, length, size;
	int offset, i;

	offset = read(skb, &head);
	if (offset == 0)
		return 1;
	counted = bpf_map_lookup_elem(&counts, &zero);
	part = bpf_map_lookup_elem(&scratch, &zero);
	if (!counted || !part)
		return 1;
	if (offset < 0 || offset > skb->len) {
		counted->unread += 1;
		return 1;
	}
	head.boot_ns = bpf_ktime_get_boot_ns();
	length = skb->len - offset;
	if (head.protocol == IPPROTO_UDP) {
		head.length = length;
		part->head = head;
		put(skb, part, counted, offset, length < DATA_MAX ? length : DATA_MAX);
		return 1;
	}
	if (length == 0 && !(head.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)))
		return 1;
	for (i = 0; i < PARTS_MAX; i++) {
		size = length < DATA_MAX ? length : DATA_MAX;
		head.length = size;
		part->head = head;
		put(skb, part, counted, offset, size);
		length -= size;
		if (length == 0)
			return 1;
		offset += size;
		head.sequence += size;
	}
	/* What is left shows as a gap in the stream. */
	return 1;
}

char LICENSE[] SEC("license") = "Apache-2.0";
