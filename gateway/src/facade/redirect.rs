//! Where may a code be sent?
//!
//! Which redirect URIs a client may have, and whether one that is asked for is one of them (RA-06; OAuth 2.1 §2.3,
//! RFC 8252 §7). Text in, judgement out; it knows no client.

use url::Url;

/// Says what is wrong with a redirect URI that a client wants to have. `schemes` are those that the administrator allows
/// besides `https` and loopback `http`.
pub(super) fn registrable(uri: &str, schemes: &[String]) -> Result<(), &'static str> {
    if uri.len() > URI_BYTES_MAX || !uri.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("it is too long, or not visible ASCII");
    }
    // No reader of such text is sure to be of one mind with another.
    if uri.contains(['#', '*', '\\', '<', '>', '"', '`', '{', '}', '|', '^']) {
        return Err("it has a fragment, a wildcard, or a character that no URI has");
    }
    let url = Url::parse(uri).map_err(|_not_a_url| "it is not an absolute URI")?;
    match url.scheme() {
        "https" => in_normal_form(uri, &url),
        "http" if is_loopback(&url) => in_normal_form(uri, &url),
        "http" => Err("http is for this computer only: 127.0.0.1, [::1] or localhost"),
        scheme if schemes.iter().any(|allowed| allowed == scheme) => {
            let path = uri.split_once(':').map_or("", |(_, path)| path);
            if path.starts_with('/') && !path.starts_with("//") { Ok(()) } else { Err("write it as `scheme:/path`") }
        }
        _ => Err("its scheme is not allowed"),
    }
}

/// Whether `asked` is the registered URI: letter by letter, but for the port of one on this computer (RFC 8252 §7.3).
pub(super) fn fits(registered: &str, asked: &str) -> bool {
    if registered == asked {
        return true;
    }
    let (Ok(one), Ok(other)) = (Url::parse(registered), Url::parse(asked)) else { return false };
    let parts = |url: &Url| (url.host_str().map(str::to_owned), url.path().to_owned(), url.query().map(str::to_owned));
    registrable(asked, &[]).is_ok()
        && [&one, &other].iter().all(|url| url.scheme() == "http" && is_loopback(url))
        && parts(&one) == parts(&other)
}

/// Whether whoever gets the code is known by a certificate.
pub(super) fn is_web(uri: &str) -> bool {
    Url::parse(uri).is_ok_and(|url| url.scheme() == "https" && !is_loopback(&url))
}

/// The part of a redirect URI that a person can judge.
pub(super) fn shown(uri: &str) -> String {
    let Ok(url) = Url::parse(uri) else { return String::new() };
    url.host_str().map_or_else(|| format!("{}:", url.scheme()), str::to_owned)
}

/// `uri` with these parameters behind those that it has.
pub(super) fn with(uri: &str, parameters: &[(&str, Option<&str>)]) -> Option<Url> {
    let mut url = Url::parse(uri).ok()?;
    let given = parameters.iter().filter_map(|(name, value)| value.map(|value| (*name, value)));
    url.query_pairs_mut().extend_pairs(given);
    Some(url)
}

/// The authority is the host and at most a port, and nothing in the path is read in another way than it stands there.
fn in_normal_form(uri: &str, url: &Url) -> Result<(), &'static str> {
    let rest = uri.split_once("://").map(|(_, rest)| rest).ok_or("it is not `scheme://host/path`")?;
    let (authority, path) = rest.split_at_checked(rest.find(['/', '?']).unwrap_or(rest.len())).unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err("it names a user");
    }
    let host = url.host_str().ok_or("it has no host")?;
    let (name, port) = authority.split_at_checked(host.len()).unwrap_or((authority, ""));
    let digits = port.strip_prefix(':').map_or(port.is_empty(), |port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if !name.eq_ignore_ascii_case(host) || !digits {
        return Err("its host is not in its normal form");
    }
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if path != url.path() && !(path.is_empty() && url.path() == "/") {
        return Err("its path is not in its normal form");
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address == std::net::Ipv4Addr::LOCALHOST,
        Some(url::Host::Ipv6(address)) => address == std::net::Ipv6Addr::LOCALHOST,
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Longer ones no client has.
const URI_BYTES_MAX: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::{fits, is_web, registrable, shown, with};

    #[test]
    fn a_code_goes_to_the_web_or_stays_on_this_computer() {
        let schemes = ["com.example.app".to_owned()];
        for fine in [
            "https://app.example/callback",
            "https://APP.example:8443/cb?a=1",
            "https://app.example",
            "http://127.0.0.1:3000/cb",
            "http://127.0.0.1/cb",
            "http://[::1]:3000/cb",
            "http://localhost:3000/cb",
            "com.example.app:/cb",
        ] {
            assert_eq!(registrable(fine, &schemes), Ok(()), "{fine}");
        }
        for wrong in [
            "http://app.example/callback",
            "http://127.0.0.1.evil.example/cb",
            "http://localhost.evil.example/cb",
            "http://127.0.0.2/cb",
            "http://0.0.0.0/cb",
            "http://2130706433/cb",
            "http://0x7f.1/cb",
            "https://app.example/cb#x",
            "https://app.example/cb#",
            "https://user@app.example/cb",
            "https://app.example@evil.example/cb",
            "https://app.example:443@evil.example/cb",
            "https://*.example/cb",
            "https://app.example/*",
            "https:app.example/cb",
            "https:/app.example/cb",
            "https:///app.example/cb",
            "https:\\\\app.example/cb",
            "https://app.example\\@evil.example/cb",
            "https://app%2eexample/cb",
            "https://app.example/a/../cb",
            "https://app.example/%2e%2e/cb",
            "https://app.example:0/cb",
            "https://app.example:/cb",
            "https://app.example/c b",
            "https://app.example/c\nb",
            "https://\u{430}pp.example/cb",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "com.example.app:cb",
            "com.example.app://evil/cb",
            "com.example.other:/cb",
            "//app.example/cb",
            "/cb",
            "",
        ] {
            assert!(registrable(wrong, &schemes).is_err(), "{wrong}");
        }
        assert!(registrable(&format!("https://app.example/{}", "x".repeat(2_000)), &[]).is_err());
    }

    #[test]
    fn it_is_the_registered_one_but_for_a_port_on_this_computer() {
        for (registered, asked, same) in [
            ("https://app.example/cb", "https://app.example/cb", true),
            ("https://app.example/cb", "https://app.example/cb/", false),
            ("https://app.example/cb", "https://app.example:443/cb", false),
            ("https://app.example/cb", "https://app.example/cb?x=1", false),
            ("https://app.example/cb", "https://APP.example/cb", false),
            ("https://app.example:1/cb", "https://app.example:2/cb", false),
            ("http://127.0.0.1/cb", "http://127.0.0.1:5000/cb", true),
            ("http://localhost:1/cb", "http://localhost:2/cb", true),
            ("http://localhost:1/cb", "http://127.0.0.1:1/cb", false),
            ("http://localhost:1/cb", "https://localhost:2/cb", false),
            ("http://localhost:1/cb", "http://localhost:2/other", false),
            ("http://localhost:1/cb", "http://localhost:2/cb?x", false),
            ("http://localhost:1/cb", "http://evil@localhost:2/cb", false),
            ("http://localhost:1/cb", "http://localhost:2/cb#x", false),
            ("http://localhost:1/cb", "http://localhost.evil.example:2/cb", false),
        ] {
            assert_eq!(fits(registered, asked), same, "{registered} {asked}");
        }
    }

    #[test]
    fn what_is_shown_is_the_host() {
        assert_eq!(shown("https://app.example:8443/cb?x=evil"), "app.example");
        assert_eq!(shown("com.example.app:/cb"), "com.example.app:");
        assert!(is_web("https://app.example/cb") && !is_web("https://localhost/cb") && !is_web("http://a.example/"));
        let back = with("https://app.example/cb?a=1", &[("code", Some("c&d")), ("state", None)]).unwrap();
        assert_eq!(back.as_str(), "https://app.example/cb?a=1&code=c%26d");
    }
}
