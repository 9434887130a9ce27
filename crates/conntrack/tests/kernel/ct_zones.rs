//! Conntrack zones that rules of nft set, as a CNI's would, and real packets through them.

use std::fs;
use std::num::NonZeroUsize;

use super::*;

const CLIENT: &str = "10.1.0.2:4000";
const SERVER: &str = "10.2.0.2:7000";

/// What the router tracks: on its way between client and server a packet passes twice, once for each end of the pair
/// `near` and `far`, since a packet that leaves through a veth is tracked anew where it arrives
/// (`skb_scrub_packet`, `net/core/skbuff.c`).
const ROUTER_RULES: &str = "table inet split {
    chain pre {
        type filter hook prerouting priority raw
        iifname { client, near } ct zone set 5
        iifname { far, server } ct zone set 9
    }
}";

/// Sends what comes from the client out through `near`, and what comes from the server out through `far`, so that
/// each comes back in at the other end; what comes back goes where it is meant for.
const ROUTER_ROUTES: &str = "
    set -e
    sysctl -qw net.ipv4.ip_forward=1
    near=02:00:00:00:00:01 far=02:00:00:00:00:02
    ip link add near address $near type veth peer name far address $far
    for name in near far client server; do
        sysctl -qw net.ipv4.conf.$name.rp_filter=0
        ip link set $name up
    done
    sysctl -qw net.ipv4.conf.all.rp_filter=0
    ip address add 10.1.0.1/24 dev client
    ip address add 10.2.0.1/24 dev server
    ip neighbour add 169.254.0.1 lladdr $far dev near nud permanent
    ip neighbour add 169.254.0.2 lladdr $near dev far nud permanent
    ip route add default via 169.254.0.1 dev near onlink table 100
    ip route add default via 169.254.0.2 dev far onlink table 101
    ip rule add pref 10 iif client lookup 100
    ip rule add pref 11 iif server lookup 101
";

/// A socket in a namespace of its own, which hangs on this thread's by the link `name`.
fn beyond(name: &str, address: &str) -> UdpSocket {
    let router = fs::read_link("/proc/thread-self").expect("proc is mounted");
    let attach = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("kernel tests need root");
        let (subnet, _) = address.rsplit_once('.').expect("an IPv4 address");
        let script = format!(
            "set -e
             ip link add inside type veth peer name {name} netns /proc/{}/ns/net
             ip address add {subnet}.2/24 dev inside
             ip link set inside up
             ip route add default via {subnet}.1",
            router.display()
        );
        run("sh", &["-c", &script]);
        UdpSocket::bind(address).expect("the address is there")
    };
    thread::scope(|scope| scope.spawn(attach).join().expect("the namespace is made"))
}

fn ct_zones(text: &str) -> CtZones {
    text.parse().expect("tests write lists")
}

fn listen_in(listed: &str) -> Ends {
    let queue_entries = NonZeroUsize::new(16).expect("not zero");
    Ends::listen(EndsConfig { receive_buffer_bytes: 1 << 20, queue_entries }, ct_zones(listed), None)
        .expect("root may listen")
}

fn read_in(listed: &str) -> (Vec<String>, Defects) {
    let (entries, snapshot) = read(&mut Table::open(ct_zones(listed)).expect("root may read"));
    let mut found: Vec<_> = entries.iter().map(plain).collect();
    found.sort();
    assert_eq!(snapshot.entries, found.len() as u64);
    (found, snapshot.defects)
}

fn drain_in(ends: &mut Ends) -> (Vec<String>, Defects) {
    let mut found: Vec<_> = drain_all(ends).iter().map(|ended| plain(&ended.entry)).collect();
    found.sort();
    (found, ends.defects())
}

fn passed_over(other_ct_zones: u64) -> Defects {
    Defects { other_ct_zones, ..Defects::default() }
}

/// Goal: one connection that passes two conntrack zones stands in both with all its bytes, counts once where one of
/// them is listed, in reads and in its end alike, and what is passed over is counted.
#[test]
fn a_connection_in_two_ct_zones_counts_once_where_one_is_listed() {
    in_namespace(|| {
        let (client, server) = (beyond("client", CLIENT), beyond("server", SERVER));
        run("sh", &["-c", ROUTER_ROUTES]);
        feed("nft", &["-f", "-"], ROUTER_RULES);
        let [mut all, mut five, mut none] = ["all", "5", "0,7"].map(listen_in);

        let exchange = Exchange { client, server };
        exchange.run(100, 200);
        exchange.run(1000, 10);
        let entry = |ct_zone| format!("udp {CLIENT}>{SERVER} ctzone={ct_zone} tx=1156/2 rx=266/2");
        let both = vec![entry(5), entry(9)];
        let expected = [
            ("all", both.clone(), passed_over(0)),
            ("5", vec![entry(5)], passed_over(1)),
            ("9", vec![entry(9)], passed_over(1)),
            ("9,5", both.clone(), passed_over(0)),
            ("0,7", vec![], passed_over(2)),
        ];
        for (listed, found, defects) in expected {
            assert_eq!(read_in(listed), (found, defects), "{listed}");
        }

        run("conntrack", &["-D", "-p", "udp"]);
        assert_eq!(drain_in(&mut all), (both, passed_over(0)));
        assert_eq!(drain_in(&mut five), (vec![entry(5)], passed_over(1)));
        assert_eq!(drain_in(&mut none), (vec![], passed_over(2)));
    });
}

/// Goal: of a connection whose directions stand in different conntrack zones the original's decides, whichever of the
/// two a rule set.
#[test]
fn the_original_directions_ct_zone_decides() {
    const RULES: &str = "table inet split {
        chain out {
            type filter hook output priority raw
            udp dport 7001 ct original zone set 5
            udp dport 7002 ct reply zone set 5
            udp sport 7002 ct reply zone set 5
        }
    }";
    in_namespace(|| {
        feed("nft", &["-f", "-"], RULES);
        let mut five = listen_in("5");
        let at = |port| SocketAddr::new(V4, port);
        for (from, to) in [(4001, 7001), (4002, 7002)] {
            Exchange::new(at(from), at(to)).run(100, 200);
        }
        let (entries, _) = read(&mut Table::open(CtZones::ALL).unwrap());
        let mut directions: Vec<_> = entries
            .iter()
            .map(|entry| {
                (entry.id.original.ports().unwrap().1, entry.id.original.ct_zone, entry.reply.ct_zone)
            })
            .collect();
        directions.sort_unstable();
        assert_eq!(directions, [(7001, CtZone(5), CtZone(0)), (7002, CtZone(0), CtZone(5))]);

        let shown = |port: u16| {
            let found = |entry: &&Entry| entry.id.original.ports() == Some((port - 3000, port));
            plain(entries.iter().find(found).expect("it was sent"))
        };
        for (listed, port) in [("5", 7001), ("0", 7002)] {
            assert_eq!(read_in(listed), (vec![shown(port)], passed_over(1)), "{listed}");
        }
        run("conntrack", &["-D", "-p", "udp"]);
        assert_eq!(drain_in(&mut five), (vec![shown(7001)], passed_over(1)));
    });
}
