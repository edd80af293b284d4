//! What does a person see, and is this the browser that it was before?
//!
//! Pages in plain HTML, and `__Host-` cookies (RA-08). No script, nothing from elsewhere, nothing that a stranger wrote
//! without being escaped. It does not know what the pages are about.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, LOCATION, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE,
        X_FRAME_OPTIONS,
    },
};
use url::Url;

use super::{Body, Response};
use crate::refusal::Outside;

/// A page; `title` and `body` are HTML.
#[must_use]
pub fn page(status: u16, title: &str, body: &str) -> Response {
    let text = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title} - Tollgate</title></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>\n"
    );
    let mut headers = guarded();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Response { status, headers, body: Body::Whole(Bytes::from(text)) }
}

/// The page that says what went wrong, in words and by its code; `title` and `more` are HTML.
#[must_use]
pub fn wrong(title: &str, outside: &Outside, more: &str) -> Response {
    let (message, code) = (escaped(&outside.message), escaped(outside.code));
    let mut page = page(outside.status, title, &format!("<p>{message}.</p>{more}<p><code>{code}</code></p>"));
    let wait = outside.retry_after_ms.map(|wait_ms| HeaderValue::from(wait_ms.div_ceil(1000).max(1)));
    page.headers.extend(wait.map(|wait| (RETRY_AFTER, wait)));
    page
}

/// 303: whatever the method was, what follows is a GET (RFC 9110 §15.4.4, OAuth 2.1 §7.12).
#[must_use]
pub fn see(place: &Url) -> Response {
    let mut headers = guarded();
    // A URL is written in ASCII.
    headers.extend(HeaderValue::from_str(place.as_str()).ok().map(|place| (LOCATION, place)));
    Response { status: 303, headers, body: Body::Empty }
}

/// Text for an element or an attribute in quotes.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // A name that reads backwards is not the name that it seems to be.
            other if other.is_control() || matches!(other, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.push('\u{fffd}');
            }
            other => out.push(other),
        }
    }
    out
}

/// The first cookie of this name.
#[must_use]
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let mut named = pairs.filter_map(|pair| pair.trim().strip_prefix(HOST)?.split_once('='));
    named.find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Has the browser keep a cookie for `life`. Other hosts of the domain cannot set it, for its prefix. `Lax`: the browser
/// shows it when another server sends it back, and not in requests that another page makes.
pub fn keep(headers: &mut HeaderMap, name: &str, value: &str, life: Duration) {
    let text = format!("{HOST}{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={}", life.as_secs());
    // Base64 fits every header.
    if let Ok(mut value) = HeaderValue::try_from(text) {
        value.set_sensitive(true);
        headers.append(SET_COOKIE, value);
    }
}

/// A page runs nothing, loads nothing, is in no frame of another's, and tells nobody where its reader came from.
fn guarded() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let mut put = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    put(CONTENT_SECURITY_POLICY, POLICY);
    // For what does not know `frame-ancestors`.
    put(X_FRAME_OPTIONS, "DENY");
    // With `no-referrer` browsers would send `Origin: null` with a form.
    put(REFERRER_POLICY, "same-origin");
    put(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    headers
}

/// No `form-action`: browsers hold the redirects after a form to it, too, and those lead to other servers.
const POLICY: &str = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'";

/// RFC 6265bis §4.1.3.2.
const HOST: &str = "__Host-";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue, header::COOKIE};

    use super::{cookie, escaped, keep};

    #[test]
    fn what_stands_on_a_page_is_text() {
        assert_eq!(escaped("<b a=\"x\">'&\u{202e}\u{0}"), "&lt;b a=&quot;x&quot;&gt;&#39;&amp;\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_cookie_is_this_hosts_or_none() {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("tollgate=a; x=b; __Host-tollgate=c; __Host-tollgate=d"));
        assert_eq!((cookie(&headers, "tollgate"), cookie(&headers, "x")), (Some("c"), None));
        let mut answer = HeaderMap::new();
        keep(&mut answer, "tollgate", "c", Duration::from_secs(600));
        let kept = answer.get("set-cookie").unwrap();
        assert_eq!(kept, "__Host-tollgate=c; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600");
        assert!(kept.is_sensitive());
    }
}
