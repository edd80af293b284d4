//! Whom does a count by address mean?
//!
//! One subscriber: an IPv4 address, or the first half of an IPv6 one, for whoever has one of the 2⁶⁴ addresses behind it
//! has all of them (RFC 6177, RFC 4291 §2.5.4). It counts nothing itself.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// The address that a count goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site(IpAddr);

impl Site {
    /// That of `peer`. An IPv4 address that a listener of both families shows as an IPv6 one (RFC 4291 §2.5.5.2) is itself:
    /// they would all be one.
    #[must_use]
    pub fn of(peer: IpAddr) -> Self {
        Self(match peer.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        })
    }

    /// As an address: the first of those that it stands for.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::Site;

    #[test]
    fn a_subscriber_is_counted_once_whichever_address_they_choose() {
        for (peer, site) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:0:1::1", "2001:db8:0:1::"),
            ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::"),
            ("2001:db8:0:2::1", "2001:db8:0:2::"),
        ] {
            assert_eq!(Site::of(peer.parse().unwrap()).to_string(), site, "{peer}");
        }
    }
}
