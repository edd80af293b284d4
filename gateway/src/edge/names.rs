//! Under which names, and for which pages, is this gateway reachable?
//!
//! The allow-lists for `Host` and `Origin` (RS-02): what keeps a page that rebinds its DNS name to our address, or a
//! front that routes by another name, from speaking to us. It reads no request; `http` does.

use crate::config::Config;

/// The names that the gateway answers to.
#[derive(Debug)]
pub(super) struct Names {
    hosts: Vec<Host>,
    origins: Vec<String>,
    /// That of the gateway's own pages.
    own: String,
    /// What no port means: the client knows us under `public_url`, whatever stands between.
    default_port: u16,
    /// Whether the names of the loopback interface count, on any port.
    loopback: bool,
}

/// One acceptable host; without a port, any port.
#[derive(Debug)]
struct Host {
    name: String,
    port: Option<u16>,
}

/// An authority without userinfo, split (RFC 9110 §7.2: `uri-host [ ":" port ]`).
#[derive(Debug, PartialEq, Eq)]
struct Authority<'a> {
    name: &'a str,
    port: Option<u16>,
}

impl Names {
    /// The names that `config` allows.
    pub(super) fn of(config: &Config) -> Self {
        let gateway = &config.gateway;
        let mut hosts = Vec::new();
        // The default port may be written or left out, and both mean the same place.
        let default_port = if gateway.public_url.scheme() == "http" { 80 } else { 443 };
        if let Some(name) = gateway.public_url.host_str() {
            let port = gateway.public_url.port().unwrap_or(default_port);
            hosts.push(Host { name: name.to_owned(), port: Some(port) });
        }
        for text in &gateway.allowed_hosts {
            if let Some(authority) = authority(text) {
                hosts.push(Host { name: authority.name.to_owned(), port: authority.port });
            }
        }
        let loopback = gateway.listen.ip().is_loopback();
        let own = gateway.public_url.origin().ascii_serialization();
        Self { hosts, origins: gateway.allowed_origins.clone(), own, default_port, loopback }
    }

    /// Whether `text`, the value of `Host` or `:authority`, is one of our names.
    pub(super) fn host_allowed(&self, text: &str) -> bool {
        let Some(asked) = authority(text) else { return false };
        let port = asked.port.unwrap_or(self.default_port);
        let listed =
            |host: &Host| host.name.eq_ignore_ascii_case(asked.name) && host.port.is_none_or(|allowed| allowed == port);
        self.hosts.iter().any(listed) || (self.loopback && is_loopback(asked.name))
    }

    /// Whether `origin` is that of the gateway's own pages.
    pub(super) fn is_own(&self, origin: &str) -> bool {
        self.own == origin
    }

    /// Whether the page at `origin` may call. Browsers send origins in lower case and without a default port
    /// (RFC 6454 §6.2), so equality of text is equality of origins.
    pub(super) fn origin_allowed(&self, origin: &str) -> bool {
        if self.origins.iter().any(|allowed| allowed == origin) {
            return true;
        }
        let local = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        self.loopback && local.and_then(authority).is_some_and(|page| is_loopback(page.name))
    }
}

/// Whether two values name the same host and port (case aside).
pub(super) fn same_authority(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

/// Splits and checks an authority: a registered name of letters, digits, `-`, `.` and `_`, an IPv4 address, or an
/// IPv6 address in brackets; then at most one port. No userinfo, no percent-encoding, no trailing dot.
fn authority(text: &str) -> Option<Authority<'_>> {
    let (name, rest) = if text.starts_with('[') {
        let end = text.find(']')?.checked_add(1)?;
        let (name, rest) = text.split_at_checked(end)?;
        let address = name.strip_prefix('[')?.strip_suffix(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        (name, rest)
    } else {
        let end = text.find(':').unwrap_or(text.len());
        let (name, rest) = text.split_at_checked(end)?;
        let fits = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && !name.ends_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if !fits {
            return None;
        }
        (name, rest)
    };
    let port = match rest.strip_prefix(':') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        Some(_) => return None,
        None if rest.is_empty() => None,
        None => return None,
    };
    Some(Authority { name, port })
}

fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The longest name of the DNS (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(loopback: bool) -> Names {
        Names {
            hosts: vec![
                Host { name: "mcp.example.com".into(), port: Some(443) },
                Host { name: "inner".into(), port: None },
                Host { name: "other".into(), port: Some(8443) },
            ],
            origins: vec!["https://claude.ai".into()],
            own: "https://mcp.example.com".into(),
            default_port: 443,
            loopback,
        }
    }

    #[test]
    fn a_host_is_ours_or_it_is_not() {
        for (host, open, loopback) in [
            ("mcp.example.com", true, true),
            ("MCP.Example.COM:443", true, true),
            ("mcp.example.com:8443", false, false),
            ("inner:1234", true, true),
            ("other:8443", true, true),
            ("other", false, false),
            ("localhost:9", false, true),
            ("127.0.0.1:9", false, true),
            ("[::1]:9", false, true),
            ("127.0.0.2", false, true),
            ("evil.example", false, false),
            ("", false, false),
            (":443", false, false),
            ("mcp.example.com:", false, false),
            ("mcp.example.com:443:443", false, false),
            ("mcp.example.com:+443", false, false),
            ("mcp.example.com.", false, false),
            ("user@mcp.example.com", false, false),
            ("mcp.example.com, evil", false, false),
            ("mcp%2eexample.com", false, false),
            ("mcp.example.com/", false, false),
            ("[::1", false, false),
            ("[::1]x", false, false),
            ("localhost.evil.example", false, false),
        ] {
            assert_eq!(names(false).host_allowed(host), open, "{host}");
            assert_eq!(names(true).host_allowed(host), loopback, "{host} on loopback");
        }
    }

    #[test]
    fn an_origin_is_allowed_by_its_exact_text() {
        for (origin, open, loopback) in [
            ("https://claude.ai", true, true),
            ("https://claude.ai/", false, false),
            ("http://claude.ai", false, false),
            ("https://claude.ai.evil.example", false, false),
            ("null", false, false),
            ("", false, false),
            ("http://localhost:6274", false, true),
            ("http://localhost.evil.example", false, false),
            ("http://localhost:6274/x", false, false),
            ("file://localhost", false, false),
        ] {
            assert_eq!(names(false).origin_allowed(origin), open, "{origin}");
            assert_eq!(names(true).origin_allowed(origin), loopback, "{origin} on loopback");
        }
    }
}
