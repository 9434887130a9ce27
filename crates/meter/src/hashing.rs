//! Addresses for hash tables, as one number each: a derived `Hash` hands them over piece by piece.

use std::hash::Hasher;
use std::net::IpAddr;

/// Equal addresses are hashed alike, and so is an IPv6 address below 2^32 and the IPv4 address of that number, which
/// nothing on a network has.
pub(crate) fn hash_address(address: IpAddr, state: &mut impl Hasher) {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    state.write_u128(bits);
}
