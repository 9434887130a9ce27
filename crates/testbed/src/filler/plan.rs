//! Which entry has which number: a mix as a busy node has it, the same at every size.
//!
//! Half of the sources are local pods (110 of them), a quarter of entries are UDP, a third IPv6, a fifth go to a
//! service address and are answered by a pod behind it. Of the other half of sources, half talk to a local pod and
//! half to the node. Four entries in a row are one flow: the same ends and protocol, other ports.
//!
//! Invariant: the shares hold in every 960 numbers in a row from a multiple of 960, and no two numbers below
//! [`NUMBERS_MAX`] share a tuple.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Numbers are below this: the ports repeat after 64,000 numbers and the remotes after 262,144, both together here.
pub(crate) const NUMBERS_MAX: u32 = 32_768_000;

/// The protocol number of TCP.
pub const TCP: u8 = 6;
/// The protocol number of UDP.
pub const UDP: u8 = 17;

/// As many as Kubernetes allows on a node by default.
const LOCAL_PODS: u16 = 110;
const ENTRIES_PER_FLOW: u32 = 4;
const REMOTES: u32 = 1 << 16;
const PORTS: u32 = 64_000;

/// Source and destination of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// Who sends this way.
    pub src: SocketAddr,
    /// Who receives this way.
    pub dst: SocketAddr,
}

/// An entry to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// As opened.
    pub original: Way,
    /// As answered: from the real peer when the original goes to a service.
    pub reply: Way,
}

/// Both addresses of every local pod.
pub fn local_pods() -> impl Iterator<Item = [IpAddr; 2]> {
    (0..LOCAL_PODS).map(|pod| [local_pod(pod, false), local_pod(pod, true)])
}

/// Both addresses of the node.
#[must_use]
pub fn node_addresses() -> [IpAddr; 2] {
    [node(false), node(true)]
}

/// The entry of this number.
///
/// # Panics
/// For 32,768,000 and above.
#[must_use]
pub fn planned(number: u32) -> Planned {
    assert!(number < NUMBERS_MAX, "no two entries may share a tuple");
    let flow = number / ENTRIES_PER_FLOW;
    let mut rest = flow;
    let mut one_in = |count: u32| {
        let is_it = rest.is_multiple_of(count);
        rest /= count;
        is_it
    };
    let (from_pod, udp, v6, service, inbound) = (one_in(2), one_in(4), one_in(3), one_in(5), one_in(2));
    let pod = local_pod(low(flow / 2 % u32::from(LOCAL_PODS)), v6);
    let remote = address(flow % REMOTES, v6, [198, 18], 0x18);
    let (client, server) = match (from_pod, inbound) {
        (true, _) => (pod, remote),
        (false, true) => (remote, pod),
        (false, false) => (remote, node(v6)),
    };
    let client = SocketAddr::new(client, low(1024 + number % PORTS));
    let real = SocketAddr::new(server, 8080);
    let called = if service { SocketAddr::new(address(flow % 200, v6, [10, 96], 0x96), 80) } else { real };
    Planned {
        protocol: if udp { UDP } else { TCP },
        original: Way { src: client, dst: called },
        reply: Way { src: real, dst: client },
    }
}

fn local_pod(number: u16, v6: bool) -> IpAddr {
    address(u32::from(number) + 0x100, v6, [10, 244], 0x244)
}

fn node(v6: bool) -> IpAddr {
    address(2, v6, [172, 18], 0x172)
}

/// The address of this number, below 2^16, in a range of its own.
fn address(number: u32, v6: bool, v4_range: [u8; 2], v6_range: u16) -> IpAddr {
    let number = low(number);
    let ([a, b], [c, d]) = (v4_range, number.to_be_bytes());
    if v6 {
        Ipv6Addr::new(0xfd00, v6_range, 0, 0, 0, 0, 0, number).into()
    } else {
        Ipv4Addr::new(a, b, c, d).into()
    }
}

fn low(number: u32) -> u16 {
    u16::try_from(number).expect("ports, pods and remotes are numbered below 2^16")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Goal: the mix has the shares that are said of it, and every tuple is there once.
    #[test]
    fn the_mix_has_its_shares_and_no_tuple_twice() {
        const NUMBERS: u32 = 96_000;
        let plans: Vec<Planned> = (0..NUMBERS).map(planned).collect();
        let pods: BTreeSet<IpAddr> = local_pods().flatten().collect();
        assert_eq!(pods.len(), 220);
        let share = |of: fn(&BTreeSet<IpAddr>, &Planned) -> bool| {
            plans.iter().filter(|plan| of(&pods, plan)).count() * 120 / plans.len()
        };
        assert_eq!(share(|pods, plan| pods.contains(&plan.original.src.ip())), 60);
        assert_eq!(share(|pods, plan| pods.contains(&plan.reply.src.ip())), 30);
        assert_eq!(share(|_, plan| plan.protocol == UDP), 30);
        assert_eq!(share(|_, plan| plan.original.src.is_ipv6()), 40);
        assert_eq!(share(|_, plan| plan.original.dst != plan.reply.src), 24);
        for way in [|plan: &Planned| plan.original, |plan: &Planned| plan.reply] {
            let tuples: BTreeSet<_> = plans.iter().map(|plan| (plan.protocol, way(plan))).collect();
            assert_eq!(tuples.len(), plans.len());
        }
    }
}
