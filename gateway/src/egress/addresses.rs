//! Is there anything behind this address that only we can reach?
//!
//! The special-purpose address registries of IANA (RFC 6890 and what has been added since), and the forms in which an
//! IPv6 address carries one of IPv4. It does not resolve names, and does not dial.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Net;

/// Whether `address` is one of the public internet, that anybody may dial. What is reserved, deprecated or only meant for
/// infrastructure is not, even where packets would get there.
pub(super) fn is_public(address: IpAddr) -> bool {
    let within = |net: &Net| net.contains(address);
    match address.to_canonical() {
        IpAddr::V4(_) => !RESERVED_V4.iter().any(within),
        IpAddr::V6(address) if NAT64.contains(IpAddr::V6(address)) => {
            let [.., a, b, c, d] = address.octets();
            is_public(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        // Global unicast is the only space that IANA has given out; all else is special by itself.
        IpAddr::V6(_) => within(&GLOBAL_UNICAST) && !RESERVED_V6.iter().any(within),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u32) -> Net {
    Net { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
}

const fn v6(a: u16, b: u16, c: u16, bits: u32) -> Net {
    Net { first: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), bits }
}

/// The IANA IPv4 special-purpose registry, and multicast.
const RESERVED_V4: [Net; 19] = [
    v4(0, 0, 0, 0, 8),        // "this network" (RFC 791 §3.2); 0.0.0.0 reaches this machine
    v4(10, 0, 0, 0, 8),       // private (RFC 1918)
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT (RFC 6598)
    v4(127, 0, 0, 0, 8),      // loopback (RFC 1122 §3.2.1.3)
    v4(168, 63, 129, 16, 32), // Azure's host, which only virtual machines there can reach
    v4(169, 254, 0, 0, 16),   // link-local (RFC 3927): the metadata services of clouds
    v4(172, 16, 0, 0, 12),    // private (RFC 1918)
    v4(192, 0, 0, 0, 24),     // IETF protocol assignments (RFC 6890)
    v4(192, 0, 2, 0, 24),     // documentation (RFC 5737)
    v4(192, 31, 196, 0, 24),  // AS112 (RFC 7535)
    v4(192, 52, 193, 0, 24),  // AMT (RFC 7450)
    v4(192, 88, 99, 0, 24),   // 6to4 relays, deprecated (RFC 7526)
    v4(192, 168, 0, 0, 16),   // private (RFC 1918)
    v4(192, 175, 48, 0, 24),  // AS112 (RFC 7534)
    v4(198, 18, 0, 0, 15),    // benchmarking (RFC 2544)
    v4(198, 51, 100, 0, 24),  // documentation (RFC 5737)
    v4(203, 0, 113, 0, 24),   // documentation (RFC 5737)
    v4(224, 0, 0, 0, 4),      // multicast (RFC 5771)
    v4(240, 0, 0, 0, 4),      // reserved (RFC 1112 §4), and broadcast (RFC 919)
];

/// NAT64 (RFC 6052): the last 32 bits are an address of IPv4, which is what is reached.
const NAT64: Net = v6(0x64, 0xff9b, 0, 96);

/// RFC 4291 §2.4.
const GLOBAL_UNICAST: Net = v6(0x2000, 0, 0, 3);

/// The IANA IPv6 special-purpose registry, as far as it lies within global unicast; without it lie loopback, unspecified,
/// local-use NAT64 (RFC 8215), discard-only (RFC 6666), unique local (RFC 4193), link-local, site-local, SRv6 SIDs
/// (RFC 9602) and multicast.
const RESERVED_V6: [Net; 5] = [
    v6(0x2001, 0, 0, 23),         // protocol assignments (RFC 2928): Teredo, ORCHID, benchmarking
    v6(0x2001, 0xdb8, 0, 32),     // documentation (RFC 3849)
    v6(0x2002, 0, 0, 16),         // 6to4 (RFC 3056): any address of IPv4 behind a relay
    v6(0x2620, 0x4f, 0x8000, 48), // AS112 (RFC 7534)
    v6(0x3fff, 0, 0, 20),         // documentation (RFC 9637)
];

#[cfg(test)]
mod tests {
    use super::is_public;

    #[test]
    fn nothing_of_ours_is_public() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.254",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::a9fe:a9fe",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "64:ff9b:1::808:808",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "2620:4f:8000::1",
            "3fff::1",
            "3fff:fff:ffff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
            "4000::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn the_rest_of_the_internet_is() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.0.1",
            "192.169.0.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "3ffe::1",
            "64:ff9b::8.8.8.8",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
