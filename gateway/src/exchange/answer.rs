//! Is this an answer of a token endpoint, and is it what was asked for?
//!
//! Status, headers and bytes in, a [`Token`] or a [`Fault`] out. Pure: it does not send, store or look at a clock.
//! Text of the endpoint goes to the journal only, bounded, and never where it repeats a credential.

use std::time::Duration;

use http::{Response, header::CONTENT_TYPE};
use oauth2::{
    ExtraTokenFields, StandardErrorResponse, StandardTokenResponse, TokenResponse,
    basic::{BasicErrorResponseType, BasicTokenType},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    config::dialects::{ACCESS_TOKEN, GivenScopes, ID_JAG, JWT},
    refusal::Login,
    secret::{Secret, Tripwire},
};

/// What was asked, as far as an answer is measured by it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// The scopes asked for, sorted; empty where that was left to the authorization server.
    pub(super) scopes: &'a [String],
    /// The subject token and all else that the endpoint must not hand back or repeat.
    pub(super) sent: &'a [&'a Secret],
    /// What kind of token is wanted.
    pub(super) wanted: Wanted,
}

/// What kind of token is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// `token_type` (RFC 6749 §7.1, RFC 8693 §2.2.1), case aside.
    pub(super) token_type: &'static str,
    /// What `issued_token_type` may say.
    pub(super) issued: &'static [&'static str],
    /// Whether the answer may hold more scopes than were asked for.
    pub(super) scopes: GivenScopes,
}

impl Wanted {
    /// An access token that whoever has it may use.
    pub(super) const BEARER: Self =
        Self { token_type: "Bearer", issued: &[ACCESS_TOKEN, JWT], scopes: GivenScopes::Within };

    /// An identity assertion, which is no access token.
    pub(super) const ID_JAG: Self = Self { token_type: "N_A", issued: &[ID_JAG], scopes: GivenScopes::Within };
}

/// A usable access token.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) value: Secret,
    pub(super) scopes: Vec<String>,
    pub(super) life: Duration,
    /// Where one came along.
    pub(super) refresh_token: Option<Secret>,
    /// Where one came along (OpenID Connect Core §3.1.3.3).
    pub(super) id_token: Option<Secret>,
}

/// Why there is no token; the text is for the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The authorization server understood, and said no.
    Refused(String),
    /// The person has to log in again first, and how, where the authorization server says so (RFC 9470, and providers' own
    /// words for it).
    NeedsLogin(Login, String),
    /// There was no usable answer.
    Unusable(String),
}

impl Fault {
    /// Whether the authorization server said no with this code (RFC 6749 §5.2).
    pub(super) fn says(&self, code: &str) -> bool {
        let Self::Refused(text) = self else { return false };
        text.split(':').next() == Some(code)
    }

    /// Whether the authorization server wants its own nonce in the proof (RFC 9449 §8), in whatever words it says so.
    pub(super) fn wants_nonce(&self) -> bool {
        let Self::Unusable(text) = self else { return false };
        let said = text.split_once(", ").map_or("", |(_status, said)| said);
        said.split(':').next() == Some("use_dpop_nonce")
    }
}

/// The members that RFC 6749 does not have: `issued_token_type` (RFC 8693 §2.2.1), and `id_token`.
#[derive(Serialize, Deserialize)]
struct Issued {
    issued_token_type: Option<String>,
    id_token: Option<String>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Issued").field("issued_token_type", &self.issued_token_type).finish_non_exhaustive()
    }
}

impl ExtraTokenFields for Issued {}

/// Reads the answer to a token request.
pub(super) fn read(response: &Response<impl AsRef<[u8]>>, asked: &Asked<'_>) -> Result<Token, Fault> {
    let status = response.status();
    let body = response.body().as_ref();
    if !is_json(response) {
        return Err(Fault::Unusable(format!("status {} and no JSON", status.as_u16())));
    }
    if status.is_success() {
        return token(body, asked);
    }
    if status.is_client_error() && status.as_u16() != TOO_MANY_REQUESTS {
        return Err(error(status.as_u16(), body, asked));
    }
    Err(Fault::Unusable(format!("status {}", status.as_u16())))
}

fn token(body: &[u8], asked: &Asked<'_>) -> Result<Token, Fault> {
    // The parser's own message may repeat a value, and here a value may be a credential.
    let answer: StandardTokenResponse<Issued, BasicTokenType> = serde_json::from_slice(body)
        .map_err(|error| unusable(&format!("not a token answer, at byte {}", error.column())))?;
    let value = Secret::new(answer.access_token().secret().clone());
    if !is_token(value.expose()) {
        return Err(unusable("`access_token` is not a token of RFC 6750 §2.1"));
    }
    if asked.sent.contains(&&value) {
        return Err(unusable("the endpoint handed back what it was given"));
    }
    let Wanted { token_type, issued, .. } = asked.wanted;
    if !answer.token_type().as_ref().eq_ignore_ascii_case(token_type) {
        return Err(Fault::Unusable(format!("`token_type` is not {token_type}")));
    }
    match answer.extra_fields().issued_token_type.as_deref() {
        Some(kind) if !issued.contains(&kind) => return Err(unusable("`issued_token_type` is not what was asked for")),
        // RFC 8693 §2.2.1 requires it; what is no access token must not be taken for one, nor the other way round.
        None if token_type == Wanted::ID_JAG.token_type => return Err(unusable("no `issued_token_type`")),
        Some(_) | None => {}
    }
    let life = answer.expires_in().unwrap_or(LIFE_UNSAID);
    if life.is_zero() {
        return Err(unusable("`expires_in` is zero"));
    }
    let along = |text: Option<&String>| text.filter(|text| is_token(text)).map(|text| Secret::new(text.clone()));
    Ok(Token {
        scopes: scopes(&answer, asked)?,
        life,
        refresh_token: along(answer.refresh_token().map(oauth2::RefreshToken::secret)),
        id_token: along(answer.extra_fields().id_token.as_ref()),
        value,
    })
}

/// RFC 6749 §5.1: no `scope` means "as asked". More than was asked is refused: nobody decided to hold that much.
fn scopes(answer: &StandardTokenResponse<Issued, BasicTokenType>, asked: &Asked<'_>) -> Result<Vec<String>, Fault> {
    let Some(given) = answer.scopes() else { return Ok(asked.scopes.to_vec()) };
    let mut given: Vec<String> =
        given.iter().map(|scope| scope.to_string()).filter(|scope| !scope.is_empty()).collect();
    given.sort_unstable();
    given.dedup();
    if given.len() > SCOPES_MAX || !given.iter().all(|scope| is_scope(scope)) {
        return Err(unusable("`scope` is not a list of scopes of RFC 6749 §3.3"));
    }
    let bounded = asked.wanted.scopes == GivenScopes::Within && !asked.scopes.is_empty();
    if bounded && given.iter().any(|scope| asked.scopes.binary_search(scope).is_err()) {
        return Err(unusable("`scope` is wider than asked for"));
    }
    Ok(given)
}

/// RFC 6749 §5.2, RFC 8693 §2.2.2. What is about this subject is a refusal; what is about the gateway's own
/// registration, or cannot be understood, says nothing of the subject.
fn error(status: u16, body: &[u8], asked: &Asked<'_>) -> Fault {
    let Ok(answer) = serde_json::from_slice::<StandardErrorResponse<BasicErrorResponseType>>(body) else {
        return Fault::Unusable(format!("status {status} and no error of RFC 6749 §5.2"));
    };
    let code = answer.error().as_ref();
    let mut text = repeatable(code, asked);
    let needs_login = NEEDS_LOGIN.contains(&code);
    if let Some(description) = answer.error_description() {
        text.push_str(": ");
        text.push_str(&repeatable(description, asked));
    }
    if needs_login {
        Fault::NeedsLogin(login(body, asked), text)
    } else if REFUSALS.contains(&code) {
        Fault::Refused(text)
    } else {
        Fault::Unusable(format!("status {status}, {text}"))
    }
}

/// How the person has to log in: `acr_values` and `max_age` as a challenge has them (RFC 9470 §3), or Entra's `claims`, which
/// names an authentication context. It goes on to the caller, so that nothing is taken but words and a number.
fn login(body: &[u8], asked: &Asked<'_>) -> Login {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let claims = said.get("claims").and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    let claims: Value = claims.unwrap_or_default();
    let context = claims.pointer("/access_token/acrs");
    let of_context = context.map(|acrs| {
        let many = acrs.get("values").and_then(Value::as_array).into_iter().flatten();
        many.chain(acrs.get("value")).filter_map(Value::as_str).collect::<Vec<_>>()
    });
    let named = said.get("acr_values").and_then(Value::as_str).map(|text| text.split(' ').collect());
    let mut acr: Vec<String> = named.or(of_context).unwrap_or_default().into_iter().map(str::to_owned).collect();
    acr.retain(|word| {
        is_word(word) && !asked.sent.iter().any(|secret| Tripwire::new(secret).trips_on(word.as_bytes()))
    });
    acr.truncate(ACR_MAX);
    let age = said.get("max_age");
    let age = age.and_then(|age| age.as_u64().or_else(|| age.as_str().and_then(|text| text.parse().ok())));
    Login { acr, age_max_s: age.and_then(|age| u32::try_from(age).ok()) }
}

/// The name of a kind of login, as administrators and providers give them: an URN, a URL, a word.
fn is_word(text: &str) -> bool {
    (1..=ACR_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/#".contains(&b))
}

/// The endpoint's text as it may stand in the journal: printable ASCII, bounded, no credential in it.
fn repeatable(text: &str, asked: &Asked<'_>) -> String {
    if asked.sent.iter().any(|secret| Tripwire::new(secret).trips_on(text.as_bytes())) {
        return "[text withheld: it repeats a credential]".to_owned();
    }
    let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(TEXT_CHARS_MAX).map(printable).collect()
}

fn is_json(response: &Response<impl AsRef<[u8]>>) -> bool {
    let Some(kind) = response.headers().get(CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// `b64token` (RFC 6750 §2.1), bounded; nothing in it can end a header or begin another.
pub(super) fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._~+/=-".contains(&b);
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// `scope-token` (RFC 6749 §3.3), bounded.
fn is_scope(text: &str) -> bool {
    text.len() <= SCOPE_BYTES_MAX && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn unusable(why: &str) -> Fault {
    Fault::Unusable(why.to_owned())
}

/// Errors that are about this subject and this target. RFC 8693 §2.2.2 says `invalid_request` of a subject token that
/// is unacceptable; with the last one the person has to agree to something first, where no page of ours leads.
const REFUSALS: [&str; 7] = [
    "invalid_grant",
    "invalid_target",
    "unauthorized_client",
    "invalid_scope",
    "access_denied",
    "invalid_request",
    "consent_required",
];

/// What is said where the person has to log in again, or in a better way.
const NEEDS_LOGIN: [&str; 3] = ["insufficient_user_authentication", "interaction_required", "login_required"];

/// Kinds of login in one answer, and bytes of each.
const ACR_MAX: usize = 8;
const ACR_BYTES_MAX: usize = 128;

/// A busy endpoint says nothing of the subject.
const TOO_MANY_REQUESTS: u16 = 429;

/// The life of a token whose endpoint does not say (RFC 6749 §5.1 only recommends it): short, as it may be anything.
const LIFE_UNSAID: Duration = Duration::from_secs(60);

/// Bytes of an access token.
const TOKEN_BYTES_MAX: usize = 16_384;

/// Scopes in one answer, and bytes of each.
const SCOPES_MAX: usize = 256;
const SCOPE_BYTES_MAX: usize = 256;

/// Characters of an endpoint's text in the journal.
const TEXT_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(status: u16, body: &str) -> Result<Token, Fault> {
        judge_as(Wanted::BEARER, status, body)
    }

    fn judge_as(wanted: Wanted, status: u16, body: &str) -> Result<Token, Fault> {
        let response = Response::builder()
            .status(status)
            .header(CONTENT_TYPE, "application/json;charset=UTF-8")
            .body(body.as_bytes().to_vec())
            .unwrap();
        let subject = Secret::new(SUBJECT.to_owned());
        let scopes = ["crm.read".to_owned(), "crm.write".to_owned()];
        read(&response, &Asked { scopes: &scopes, sent: &[&subject], wanted })
    }

    const SUBJECT: &str =
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImp0aSI6IjEyMzQ1Njc4OTAifQ.c2lnbmF0dXJlc2lnbmF0dXJlc2ln";

    #[test]
    fn what_is_no_usable_token_is_refused() {
        let table = [
            ("", "not a token answer"),
            ("[]", "not a token answer"),
            ("null", "not a token answer"),
            (r#"{"token_type":"Bearer","expires_in":9}"#, "not a token answer"),
            (r#"{"access_token":"a","expires_in":9}"#, "not a token answer"),
            (r#"{"access_token":"a","token_type":"Bearer","expires_in":"9"}"#, "not a token answer"),
            (r#"{"access_token":"a","token_type":"Bearer","expires_in":9.5}"#, "not a token answer"),
            (r#"{"access_token":"a","token_type":"Bearer","expires_in":-1}"#, "not a token answer"),
            (r#"{"access_token":"a","access_token":"b","token_type":"Bearer"}"#, "not a token answer"),
            (r#"{"access_token":"a","token_type":"Bearer"} x"#, "not a token answer"),
            (r#"{"access_token":"a","token_type":"Bearer","expires_in":0}"#, "`expires_in`"),
            (r#"{"access_token":"","token_type":"Bearer"}"#, "`access_token`"),
            (r#"{"access_token":"a b","token_type":"Bearer"}"#, "`access_token`"),
            (r#"{"access_token":"a\r\nX: y","token_type":"Bearer"}"#, "`access_token`"),
            (r#"{"access_token":"a","token_type":"DPoP"}"#, "`token_type`"),
            (r#"{"access_token":"a","token_type":"N_A"}"#, "`token_type`"),
            (
                r#"{"access_token":"a","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:id_token"}"#,
                "`issued_token_type`",
            ),
            (r#"{"access_token":"a","token_type":"Bearer","scope":"crm.read crm.admin"}"#, "wider"),
            (r#"{"access_token":"a","token_type":"Bearer","scope":"crm.read \"x"}"#, "`scope`"),
        ];
        for (body, why) in table {
            let Err(Fault::Unusable(text)) = judge(200, body) else { panic!("{body}") };
            assert!(text.contains(why), "{body}: {text}");
        }
        let echoed = format!(r#"{{"access_token":"{SUBJECT}","token_type":"Bearer"}}"#);
        assert_eq!(judge(200, &echoed).unwrap_err(), unusable("the endpoint handed back what it was given"));
        let long = format!(r#"{{"access_token":"{}","token_type":"Bearer"}}"#, "a".repeat(TOKEN_BYTES_MAX + 1));
        assert!(judge(200, &long).is_err());
    }

    #[test]
    fn a_token_is_taken_with_what_was_given() {
        let token =
            judge(200, r#"{"access_token":"abc","token_type":"bEARER","expires_in":300,"x":{"y":[1]}}"#).unwrap();
        assert_eq!((token.value.expose(), token.life), ("abc", Duration::from_secs(300)));
        assert_eq!(token.scopes, ["crm.read", "crm.write"]);
        let body = format!(
            r#"{{"access_token":"abc","token_type":"Bearer","scope":"crm.read","issued_token_type":"{ACCESS_TOKEN}"}}"#
        );
        let token = judge(200, &body).unwrap();
        assert_eq!((token.scopes.as_slice(), token.life), (&["crm.read".to_owned()][..], LIFE_UNSAID));
    }

    #[test]
    fn tokens_do_not_print() {
        let body = r#"{"access_token":"hunter2","refresh_token":"hunter2","id_token":"hunter2","token_type":"Bearer"}"#;
        let token = judge(200, body).unwrap();
        assert!(token.refresh_token.is_some() && token.id_token.is_some());
        assert!(!format!("{token:?}").contains("hunter2"));
        let issued = Issued { issued_token_type: None, id_token: Some("hunter2".to_owned()) };
        assert!(!format!("{issued:?}").contains("hunter2"));
    }

    #[test]
    fn one_kind_of_token_is_not_taken_for_another() {
        let assertion = format!(r#"{{"access_token":"abc","token_type":"n_a","issued_token_type":"{ID_JAG}"}}"#);
        let bearer = format!(
            r#"{{"access_token":"abc","token_type":"Bearer","issued_token_type":"{ACCESS_TOKEN}","scope":"a b"}}"#
        );
        let bound = r#"{"access_token":"abc","token_type":"DPoP"}"#;
        let unsaid = r#"{"access_token":"abc","token_type":"N_A"}"#;
        let dpop = Wanted { token_type: "DPoP", ..Wanted::BEARER };
        let configured = Wanted { scopes: GivenScopes::Configured, ..Wanted::BEARER };
        for (wanted, body, fine) in [
            (Wanted::ID_JAG, assertion.as_str(), true),
            (Wanted::BEARER, &assertion, false),
            (Wanted::ID_JAG, &bearer, false),
            (Wanted::ID_JAG, unsaid, false),
            (dpop, bound, true),
            (dpop, r#"{"access_token":"abc","token_type":"Bearer"}"#, false),
            (Wanted::BEARER, bound, false),
            (Wanted::BEARER, &bearer, false),
            (configured, &bearer, true),
        ] {
            assert_eq!(judge_as(wanted, 200, body).is_ok(), fine, "{wanted:?} {body}");
        }
    }

    #[test]
    fn errors_about_the_subject_are_refusals_and_all_others_are_not() {
        for code in REFUSALS {
            let answer = judge(400, &format!(r#"{{"error":"{code}"}}"#));
            assert_eq!(answer.unwrap_err(), Fault::Refused(code.to_owned()));
        }
        let table = [
            (401, r#"{"error":"invalid_client"}"#),
            (400, r#"{"error":"unsupported_grant_type"}"#),
            (400, r#"{"error":"server_error"}"#),
            (400, r#"{"oops":true}"#),
            (404, "not json"),
            (429, r#"{"error":"invalid_grant"}"#),
            (500, r#"{"error":"invalid_grant"}"#),
            (503, "{}"),
            (302, "{}"),
            (101, "{}"),
        ];
        for (status, body) in table {
            let fault = judge(status, body).unwrap_err();
            assert!(matches!(fault, Fault::Unusable(_)), "{status} {body}: {fault:?}");
        }
    }

    #[test]
    fn how_a_person_has_to_log_in_is_understood_and_nothing_else_goes_on() {
        let long = "a".repeat(ACR_BYTES_MAX + 1);
        let table = [
            (r#""error":"interaction_required""#.to_owned(), vec![], None),
            (r#""error":"login_required","max_age":0"#.to_owned(), vec![], Some(0)),
            (r#""error":"interaction_required","acr_values":"mfa urn:a:b","max_age":"300""#.to_owned(), vec!["mfa", "urn:a:b"], Some(300)),
            (
                r#""error":"interaction_required","claims":"{\"access_token\":{\"acrs\":{\"essential\":true,\"value\":\"c1\"}}}""#.to_owned(),
                vec!["c1"],
                None,
            ),
            (format!(r#""error":"login_required","acr_values":"{SUBJECT} {long} \"quoted\" a\u0000b fine","max_age":-1"#), vec!["fine"], None),
            (r#""error":"login_required","acr_values":["mfa"],"claims":"[]","max_age":1e12"#.to_owned(), vec![], None),
        ];
        for (members, acr, age_max_s) in table {
            let Fault::NeedsLogin(login, _) = judge(400, &format!("{{{members}}}")).unwrap_err() else {
                panic!("{members}")
            };
            assert_eq!(
                (login.acr, login.age_max_s),
                (acr.into_iter().map(str::to_owned).collect(), age_max_s),
                "{members}"
            );
        }
        let Fault::NeedsLogin(_, why) =
            judge(400, r#"{"error":"interaction_required","error_description":"AADSTS50076"}"#).unwrap_err()
        else {
            panic!()
        };
        assert_eq!(why, "interaction_required: AADSTS50076");
    }

    #[test]
    fn text_of_the_endpoint_is_bounded_and_repeats_no_credential() {
        let body = format!(r#"{{"error":"invalid_grant","error_description":"bad\n\u202e{}"}}"#, "x".repeat(900));
        let Fault::Refused(text) = judge(400, &body).unwrap_err() else { panic!() };
        assert!(text.starts_with("invalid_grant: bad??xxx") && text.len() < 230, "{text}");
        let body = format!(r#"{{"error":"invalid_grant","error_description":"subject was {SUBJECT}"}}"#);
        let Fault::Refused(text) = judge(400, &body).unwrap_err() else { panic!() };
        assert_eq!(text, "invalid_grant: [text withheld: it repeats a credential]");
    }
}
