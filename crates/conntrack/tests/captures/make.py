#!/usr/bin/env python3
"""Makes dump.hex and destroy.hex anew: run ./make.py as root.

Everything happens in a network namespace of its own. Needs unshare, ip, nft and conntrack.
"""
import os
import pathlib
import socket
import struct
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
NETLINK_NETFILTER, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 12, 270, 1
CT_GET, REQUEST_AND_DUMP, NLMSG_DONE, GROUP_DESTROY = 0x101, 0x301, 3, 3

RULES = """
table inet capture {
    chain partitions {
        type filter hook output priority raw
        udp dport 7003 ct zone set 3
        udp sport 7003 ct zone set 3
        udp dport 7004 ct original zone set 4
    }
    chain track {
        type filter hook output priority filter
        ct state new counter
    }
    chain service {
        type nat hook output priority -100
        ip daddr 10.96.0.1 udp dport 53 dnat ip to 127.0.0.1:5353
    }
}
"""


def run(command, text=None):
    subprocess.run(command.split(), input=text, text=True, check=True, capture_output=True)


def sysctl(acct, timestamp):
    for name, value in [("acct", acct), ("timestamp", timestamp), ("events", 1)]:
        pathlib.Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").write_text(str(value))


def exchange(family, address, port, dialled=None):
    """100 bytes there, 200 back, over UDP from port 4000."""
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((address, port))
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.bind((address, 4000))
    client.sendto(bytes(100), dialled or (address, port))
    _, peer = server.recvfrom(2048)
    server.sendto(bytes(200), peer)
    client.recvfrom(2048)


def connection(family, address):
    """1,000 bytes there over TCP, closed by FIN."""
    listener = socket.create_server((address, 8080), family=family)
    client = socket.create_connection((address, 8080), source_address=(address, 4000))
    server, _ = listener.accept()
    client.sendall(bytes(1000))
    server.recv(1000, socket.MSG_WAITALL)
    client.close()
    server.recv(1)
    server.close()


def traffic():
    exchange(socket.AF_INET, "127.0.0.1", 7001)
    exchange(socket.AF_INET6, "::1", 7001)
    exchange(socket.AF_INET, "127.0.0.1", 7003)
    exchange(socket.AF_INET, "127.0.0.1", 7004)
    exchange(socket.AF_INET, "127.0.0.1", 5353, dialled=("10.96.0.1", 53))
    connection(socket.AF_INET, "127.0.0.1")
    connection(socket.AF_INET6, "::1")
    ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    ping.sendto(struct.pack("!BBHHH", 8, 0, 0xF7B1, 77, 1), ("127.0.0.1", 0))
    ping = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    ping.sendto(struct.pack("!BBHHH", 128, 0, 0, 78, 1), ("::1", 0))
    esp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP)
    esp.sendto(bytes(32), ("127.0.0.1", 0))


def made_over_netlink():
    """One entry without counters, and two protocols that nothing speaks here."""
    ends = "-s 10.0.0.1 -d 10.0.0.2 -t 600"
    run(f"conntrack -I -p udp {ends} --sport 1 --dport 2")
    run(f"conntrack -I -p sctp {ends} --sport 3 --dport 4 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2")
    run(f"conntrack -I -p gre {ends} --srckey 5 --dstkey 6")


def dump(netlink):
    """The kernel's answer to a dump of all families, as sequence 1."""
    netlink.send(struct.pack("=IHHIIBBH", 20, CT_GET, REQUEST_AND_DUMP, 1, 0, socket.AF_UNSPEC, 0, 0))
    datagrams = []
    while not datagrams or struct.unpack_from("=IH", datagrams[-1])[1] != NLMSG_DONE:
        datagrams.append(netlink.recv(32768))
    return datagrams


def waiting(netlink):
    datagrams = []
    try:
        while True:
            datagrams.append(netlink.recv(32768, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return datagrams


def write(name, datagrams):
    (HERE / name).write_text("".join(datagram.hex() + "\n" for datagram in datagrams))


def main():
    run("ip link set lo up")
    run("ip address add 10.0.0.1/32 dev lo")
    run("ip route add 10.96.0.0/16 dev lo")
    run("nft -f -", RULES)
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    events.bind((0, 0))
    events.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, GROUP_DESTROY)
    table = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    # Port 4242 is part of each answer: the reader's test names it.
    table.bind((4242, 0))

    sysctl(acct=1, timestamp=1)
    traffic()
    sysctl(acct=0, timestamp=0)
    made_over_netlink()
    write("dump.hex", dump(table))
    run("conntrack -F")
    write("destroy.hex", waiting(events))


if __name__ == "__main__":
    if sys.argv[1:] != ["inside"]:
        os.execvp("unshare", ["unshare", "--net", sys.executable, __file__, "inside"])
    main()
