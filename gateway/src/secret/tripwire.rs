//! Is the caller's credential about to leave?
//!
//! The second line of defence behind the types: looks for the credential's bytes in what goes out, as they are,
//! percent-encoded, in base64 and with the escapes of JSON. It does not stop anything; `upstream` does, on a `true`.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::HeaderMap;

use super::Secret;

/// What one credential looks like wherever it turns up.
#[derive(Debug)]
pub struct Tripwire {
    traces: Vec<Trace>,
    /// Bytes of the shortest probe: nothing that is shorter, as most headers are, holds any.
    shortest: usize,
}

/// A run of bytes that betrays the credential.
#[derive(Debug)]
struct Trace {
    /// Short enough for the standard library's vectorised search ([`PROBE_BYTES_MAX`]).
    probe: Secret,
    /// All of it, where the probe alone may stand in an innocent text.
    whole: Option<Secret>,
}

impl Tripwire {
    /// Set on `credential`.
    #[must_use]
    pub fn new(credential: &Secret) -> Self {
        let credential = credential.expose();
        let mut traces = Vec::with_capacity(8);
        let mut segments = credential.rsplit('.');
        // The last segment of a JWS is its signature: random, so that its end alone is proof enough. What is not a JWS
        // is one segment, and its end is as random as an opaque token must be (RFC 6749 §10.10).
        let tail = end_of(segments.next().unwrap_or_default(), PROBE_BYTES_MAX);
        if tail.len() >= TAIL_BYTES_MIN {
            traces.push(Trace { probe: Secret::new(tail.to_owned()), whole: None });
            traces.extend(
                in_base64(end_of(tail, BASE64_SOURCE_BYTES))
                    .map(|probe| Trace { probe: Secret::new(probe), whole: None }),
            );
        } else if !credential.is_empty() {
            // A short secret is looked for whole: its end may well stand in an innocent text.
            traces.push(Trace {
                probe: Secret::new(end_of(credential, PROBE_BYTES_MAX).to_owned()),
                whole: Some(Secret::new(credential.to_owned())),
            });
        }
        // The payload says who the caller is even without its signature. The upstream's own token may share runs with
        // it (`iss`, `sub`), so only the whole segment counts.
        if let Some(payload) = segments.next().filter(|segment| segment.len() >= PAYLOAD_BYTES_MIN) {
            let probe = Secret::new(end_of(payload, PROBE_BYTES_MAX).to_owned());
            traces.push(Trace { probe, whole: Some(Secret::new(payload.to_owned())) });
        }
        let shortest = traces.iter().map(|trace| trace.probe.expose().len()).min().unwrap_or(usize::MAX);
        Self { traces, shortest }
    }

    /// Whether the credential stands in any of the URL, the header values or the body.
    #[must_use]
    pub fn trips(&self, url: &str, headers: &HeaderMap, body: &[u8]) -> bool {
        self.trips_on(url.as_bytes())
            || headers.iter().any(|(name, value)| {
                // A header name cannot hold a token in base64url: it is lower case. Short opaque ones it can.
                self.trips_on(value.as_bytes()) || self.trips_on(name.as_str().as_bytes())
            })
            || self.trips_on(body)
            || (body.contains(&b'\\') && self.trips_on(&unescaped(body)))
    }

    /// Whether the credential stands in `bytes`.
    #[must_use]
    pub fn trips_on(&self, bytes: &[u8]) -> bool {
        if bytes.len() < self.shortest {
            return false;
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            // What is not UTF-8 cannot be part of a token.
            Err(_) => String::from_utf8_lossy(bytes),
        };
        self.traces.iter().any(|trace| trace.is_in(&text))
            || (text.contains('%') && {
                let decoded = percent_decoded(&text);
                self.traces.iter().any(|trace| trace.is_in(&decoded))
            })
    }
}

impl Trace {
    fn is_in(&self, text: &str) -> bool {
        // The probe decides nearly every search; the whole run is searched for only where the probe is there.
        text.contains(self.probe.expose()) && self.whole.as_ref().is_none_or(|whole| text.contains(whole.expose()))
    }
}

/// The last `bytes_max` bytes of `text`, or all of it; a credential is ASCII (RFC 6750 §2.1), what is not is taken whole.
fn end_of(text: &str, bytes_max: usize) -> &str {
    text.len().checked_sub(bytes_max).and_then(|start| text.get(start..)).unwrap_or(text)
}

/// The middle of `tail` as it looks in the base64 of a longer text, at each of the three offsets that it can have there.
/// The edges of each encoding depend on the neighbours and are cut off.
fn in_base64(tail: &str) -> impl Iterator<Item = String> + '_ {
    (0..3_usize).filter_map(move |skipped| {
        let source = tail.as_bytes().get(skipped..)?;
        let whole_groups = source.len().checked_sub(source.len() % 3)?;
        Some(STANDARD_NO_PAD.encode(source.get(..whole_groups)?))
    })
}

/// RFC 3986 §2.1, leniently: what is not an escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| tail.split_first_chunk::<2>()).flatten();
        let decoded = escape.and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, after))
        });
        let (byte, after) = decoded.unwrap_or((first, tail));
        out.push(byte);
        rest = after;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// JSON text without the escapes in its strings (RFC 8259 §7); what is not ASCII can be no part of a token and reads as
/// `?`. The quotes that end strings are no part of one either, so what stands around the strings may stay.
fn unescaped(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, after) = match (first, tail.split_first()) {
            (b'\\', Some((b'u', tail))) => {
                tail.split_first_chunk().map_or((b'?', tail), |(hex, after)| (ascii(hex), after))
            }
            (b'\\', Some((escaped, after))) => (*escaped, after),
            (plain, _) => (plain, tail),
        };
        out.push(byte);
        rest = after;
    }
    out
}

/// The character with this number in hex, where it is ASCII.
fn ascii(hex: &[u8; 4]) -> u8 {
    let number = std::str::from_utf8(hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
    number.filter(u8::is_ascii).unwrap_or(b'?')
}

/// The standard library searches for needles of up to 32 bytes with vector instructions.
const PROBE_BYTES_MAX: usize = 32;

/// An end of a signature that is unique: 96 random bits.
const TAIL_BYTES_MIN: usize = 16;

/// How much of the signature's end is looked for in base64: 24 bytes become 28 to 32 characters.
const BASE64_SOURCE_BYTES: usize = 24;

/// A payload shorter than this may stand in an innocent text.
const PAYLOAD_BYTES_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use http::{HeaderName, HeaderValue};

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.\
                         eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJzdWIiOiJhbGljZSIsImp0aSI6IjdmM2EiLCJ0aWQiOiJhY21lIn0.\
                         kd0Xl7-GZ3bqP_yTn4wV9hS2uRfA8mJ5cLoEiDtKaNvBxQ1W6pYzHgUsrMjC0FeTq3nXl-d_Z8kPbVwO4aSyRg";
    const SIBLING: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.\
                           eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJzdWIiOiJhbGljZSIsImp0aSI6IjliMTAiLCJ0aWQiOiJhY21lIn0.\
                           Zt5_Qe1RkV8xPz0YbLmCwN3gUoHs7JdAiFy2vTn6KpXcBfGrE9lDjMqOaSuWh4I-_tYxZ3kVbPnQe7RmLcUwSg";

    fn trips(url: &str, header: &str, body: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-any"), HeaderValue::from_str(header).unwrap());
        Tripwire::new(&Secret::new(TOKEN.to_owned())).trips(url, &headers, body.as_bytes())
    }

    #[test]
    fn a_credential_is_found_wherever_it_is_and_however_it_is_written() {
        let every_byte: String = TOKEN.bytes().map(|b| format!("%{b:02x}")).collect();
        let dots: String = TOKEN.replace('.', "%2E").replace('-', "%2d").replace('_', "%5F");
        let mut forms = vec![TOKEN.to_owned(), format!("Bearer {TOKEN}"), every_byte, dots];
        for prefix in ["", "x", "xy", "Bearer ", "user:", "{\"token\":\""] {
            forms.push(STANDARD.encode(format!("{prefix}{TOKEN}\"}}")));
            forms.push(URL_SAFE_NO_PAD.encode(format!("{prefix}{TOKEN}")));
        }
        let (_, payload_on) = TOKEN.split_once('.').unwrap();
        let (payload, signature) = payload_on.split_once('.').unwrap();
        forms.extend([payload.to_owned(), signature.to_owned()]);
        for form in forms {
            assert!(trips(&format!("https://crm.internal/mcp?t={form}"), "a", "{}"), "url: {form}");
            assert!(trips("https://crm.internal/mcp", &form, "{}"), "header: {form}");
            let body = format!("{}{form}{}", "é".repeat(100_000), "x".repeat(1000));
            assert!(trips("https://crm.internal/mcp", "a", &body), "body: {form}");
        }
    }

    #[test]
    fn the_escapes_of_json_hide_nothing_in_a_body() {
        let escaped = |text: &str| text.bytes().map(|byte| format!("\\u{byte:04X}")).collect::<String>();
        let slashes = STANDARD.encode(format!("~~~?{TOKEN}")).replace('/', "\\/");
        let half = TOKEN.replace('.', "\\u002e").replace("kd0X", "k\\u00640X").replace("SyRg", "Sy\\u0052g");
        for form in [escaped(TOKEN), half, slashes, escaped(&TOKEN.replace('.', "%2E")), format!("\\\\{TOKEN}")] {
            let body = format!("{{\"a\":\"\\ud83d\\ude00\",\"{form}\":\"\\n\"}}");
            assert!(trips("https://crm.internal/mcp", "a", &body), "{body}");
        }
        for cut in ["\\", "\\u", "\\u00", "\\u00e9", "\\uzzzz"] {
            assert!(!trips("https://crm.internal/mcp", "a", &format!("{{\"a\":\"{cut}")));
        }
    }

    #[test]
    fn the_upstreams_own_token_and_innocent_text_pass() {
        let body = format!("{{\"a\":\"{}%zz%\"}}", "eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJzdWIi".repeat(30));
        assert!(!trips("https://crm.internal/mcp", &format!("Bearer {SIBLING}"), &body));
        assert!(!trips("https://crm.internal/mcp?q=100%25", "", ""));
    }

    #[test]
    fn an_opaque_credential_is_found_and_a_short_one_only_whole() {
        let wire = Tripwire::new(&Secret::new("tg_7Qm2".to_owned()));
        assert!(wire.trips_on(b"Bearer tg_7Qm2") && wire.trips_on(b"tg_7Qm2"));
        assert!(!wire.trips_on(b"g_7Qm2 and more than sixteen bytes"));
        let wire = Tripwire::new(&Secret::new("0f4c9e77ab5541e09d3e6c1b2a7f8d60".to_owned()));
        assert!(wire.trips_on(b"key=0f4c9e77ab5541e09d3e6c1b2a7f8d60&"));
        assert!(!Tripwire::new(&Secret::new(String::new())).trips_on(b"anything at all, however long"));
    }
}
