//! What may a browser page see of us?
//!
//! The Fetch standard's CORS headers, for pages whose origin `http` has let in. It decides about no origin itself.

use http::{
    HeaderMap, HeaderValue,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ORIGIN, VARY,
    },
};

/// Lets `page` read the answer with `headers` (RA-11). Without credentials mode: a token travels in `Authorization`,
/// which the page puts there itself, and no cookie ever counts.
pub(super) fn share(headers: &mut HeaderMap, page: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.append(VARY, HeaderValue::from(ORIGIN));
}

/// Answers a preflight for a path that answers `methods`.
pub(super) fn preflight(request: &HeaderMap, headers: &mut HeaderMap, methods: &'static str) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed(request));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_SECONDS));
}

/// The headers of MCP, and those `Mcp-Param-*` that the page asks for: CORS has no wildcard for a prefix.
fn allowed(request: &HeaderMap) -> HeaderValue {
    let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut list = String::from(ALLOWED);
    for name in asked.split(',').map(str::trim).filter(|name| is_parameter(name)).take(PARAMETERS_MAX) {
        list.push_str(", ");
        list.push_str(name);
    }
    HeaderValue::try_from(list).unwrap_or(HeaderValue::from_static(ALLOWED))
}

fn is_parameter(name: &str) -> bool {
    let (prefix, rest) = name.split_at_checked(PARAMETER.len()).unwrap_or(("", ""));
    prefix.eq_ignore_ascii_case(PARAMETER)
        && (1..=PARAMETER_BYTES_MAX).contains(&rest.len())
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Request headers that a page may send.
const ALLOWED: &str = "authorization, dpop, content-type, accept, mcp-protocol-version, mcp-session-id, mcp-method, mcp-name, last-event-id";
/// Response headers that a page may read.
const EXPOSED: &str = "WWW-Authenticate, DPoP-Nonce, Mcp-Session-Id, Mcp-Protocol-Version, Retry-After";
/// Two hours, the longest that browsers keep.
const MAX_AGE_SECONDS: &str = "7200";
const PARAMETER: &str = "mcp-param-";
const PARAMETER_BYTES_MAX: usize = 64;
const PARAMETERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_allowed_by_name_and_nothing_else_is_echoed() {
        let mut request = HeaderMap::new();
        let asked = "authorization, Mcp-Param-Region, x-evil, mcp-param-, mcp-param-a b, mcp-param-\u{e9}";
        request.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_bytes(asked.as_bytes()).unwrap());
        assert_eq!(allowed(&request), ALLOWED, "not ASCII: nothing of it is echoed");
        let asked = "authorization, Mcp-Param-Region, x-evil, mcp-param-, mcp-param-a b";
        request.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static(asked));
        assert_eq!(allowed(&request), format!("{ALLOWED}, Mcp-Param-Region"));
    }
}
