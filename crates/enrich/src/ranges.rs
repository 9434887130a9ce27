//! Private or public: on which side of the cluster's border an address lies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egressd_flow::AddressClass;
use ipnet::IpNet;

/// The ranges that the cluster or the operator calls its own, before the usual ones.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// Disjoint, in the order of their first addresses: thousands of nodes have a range each.
    own: Vec<IpNet>,
}

impl Ranges {
    /// `own` are the cluster's pod and service ranges and what the operator adds.
    #[must_use]
    pub fn new(own: Vec<IpNet>) -> Self {
        let mut own = IpNet::aggregate(&own);
        own.sort_unstable_by_key(IpNet::network);
        Self { own }
    }

    /// The class of an address that the index does not know.
    #[must_use]
    pub fn class(&self, address: IpAddr) -> AddressClass {
        let address = address.to_canonical();
        let after = self.own.partition_point(|range| range.network() <= address);
        let own = after > 0 && self.own[after - 1].contains(&address);
        let usual = match address {
            IpAddr::V4(v4) => is_private_v4(v4),
            IpAddr::V6(v6) => is_private_v6(v6),
        };
        if own || usual { AddressClass::Private } else { AddressClass::Public }
    }
}

/// RFC 1918, RFC 6598 (100.64/10, which clusters use for pods), and what never crosses the internet: loopback,
/// link-local, multicast, broadcast, unspecified.
fn is_private_v4(v4: Ipv4Addr) -> bool {
    let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0b1100_0000 == 64;
    v4.is_private()
        || shared
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_unspecified()
}

/// RFC 4193 (fc00::/7), and what never crosses the internet.
fn is_private_v6(v6: Ipv6Addr) -> bool {
    v6.is_unique_local()
        || v6.is_unicast_link_local()
        || v6.is_loopback()
        || v6.is_multicast()
        || v6.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: among many ranges the right one is found, whatever order they came in.
    #[test]
    fn many_ranges_are_told_apart() {
        let texts =
            ["203.0.113.64/26", "2001:db8:2::/48", "198.51.100.0/24", "203.0.113.0/26", "203.0.113.192/26"];
        let ranges = Ranges::new(texts.iter().map(|text| text.parse().unwrap()).collect());
        for (address, class) in [
            ("198.51.99.255", AddressClass::Public),
            ("198.51.100.0", AddressClass::Private),
            ("198.51.101.0", AddressClass::Public),
            ("203.0.113.127", AddressClass::Private),
            ("203.0.113.128", AddressClass::Public),
            ("203.0.113.255", AddressClass::Private),
            ("2001:db8:1:ffff::", AddressClass::Public),
            ("2001:db8:2::1", AddressClass::Private),
            ("2001:db8:3::", AddressClass::Public),
        ] {
            assert_eq!(ranges.class(address.parse().unwrap()), class, "{address}");
        }
    }

    /// Goal: the cluster's own word comes first, then the usual ranges, and the borders are exact.
    #[test]
    fn classes_follow_the_ranges() {
        let ranges =
            Ranges::new(vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()]);
        for (address, class) in [
            ("10.1.2.3", AddressClass::Private),
            ("172.15.255.255", AddressClass::Public),
            ("172.16.0.0", AddressClass::Private),
            ("172.31.255.255", AddressClass::Private),
            ("172.32.0.0", AddressClass::Public),
            ("192.168.0.1", AddressClass::Private),
            ("100.63.255.255", AddressClass::Public),
            ("100.64.0.0", AddressClass::Private),
            ("100.127.255.255", AddressClass::Private),
            ("100.128.0.0", AddressClass::Public),
            ("169.254.169.254", AddressClass::Private),
            ("127.0.0.1", AddressClass::Private),
            ("224.0.0.251", AddressClass::Private),
            ("203.0.113.1", AddressClass::Public),
            ("198.51.100.7", AddressClass::Private),
            ("::ffff:10.0.0.1", AddressClass::Private),
            ("::ffff:203.0.113.1", AddressClass::Public),
            ("fd00::1", AddressClass::Private),
            ("fe80::1", AddressClass::Private),
            ("ff02::1", AddressClass::Private),
            ("::1", AddressClass::Private),
            ("2001:db8:1::5", AddressClass::Private),
            ("2001:db8:2::5", AddressClass::Public),
        ] {
            assert_eq!(ranges.class(address.parse().unwrap()), class, "{address}");
        }
    }
}
