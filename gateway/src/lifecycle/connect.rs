//! How is a user asked to connect an account, and what do the pages look like that they do it on?
//!
//! A call that finds no account ends by naming a page: in an `input_required`, in error -32042, or in a refusal, as the
//! client can take it. The pages say what is about to happen and have one button each; every step is judged by
//! [`crate::exchange::connect`]. Nothing on a page comes from a provider. There are so many a minute for each address and
//! each user.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, LOCATION, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE,
        X_FRAME_OPTIONS,
    },
};
use url::form_urlencoded;

use super::{Asking, Body, Gateway, Head, Response, local, respond, retry::Retrying, trail::Trail};
use crate::{
    audit::{journal, record},
    bridge::{Binding, Continuation, To},
    catalog::Target,
    config::UpstreamId,
    exchange::connect::{CALLBACK, Connected, Consent, LOGIN, LoggedIn, Response as Answer, Strayed},
    identity::User,
    inspect::asks::{Ask, Asked, Kind},
    refusal::{Era, Page, Refusal},
    rpc::{Capabilities, answers::CONNECT},
    secret::Secret,
    state::{Rate, Site},
    telemetry::metrics::metrics,
};

/// A page, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `/connect/{upstream}`: what a call named.
    Invitation(UpstreamId),
    /// `/connecting/login`: back from the login.
    Login,
    /// `/connecting/confirm`: the user's word.
    Confirm,
    /// `/connecting/callback/{upstream}`: back from the upstream's server.
    Callback(UpstreamId),
}

impl Step {
    /// The page of `path`, compared byte for byte.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        if let Some(id) = path.strip_prefix("/connect/") {
            return UpstreamId::parse(id).map(Self::Invitation);
        }
        match path.strip_prefix("/connecting/")? {
            LOGIN => Some(Self::Login),
            CONFIRM => Some(Self::Confirm),
            page => UpstreamId::parse(page.strip_prefix(CALLBACK)?).map(Self::Callback),
        }
    }

    /// The methods that it answers.
    #[must_use]
    pub const fn methods(&self) -> &'static str {
        match self {
            Self::Invitation(_) => "GET, POST",
            Self::Login | Self::Callback(_) => "GET",
            Self::Confirm => "POST",
        }
    }
}

/// The page as something to ask.
pub(super) fn ask(page: &Page) -> Result<Asked, Refusal> {
    Ok(Asked::by_requests(vec![(KEY.to_owned(), Ask::page(CONNECT, &page.url)?)]))
}

impl Gateway {
    /// Ends a request whose user has no account yet, in the form that its client can take: the call was not made, and is
    /// to be made again after the visit.
    pub(super) fn connect_first(
        &self,
        asking: &Asking<'_>,
        target: &Target,
        trail: &Trail,
        (retry, mut page): (Option<Retrying>, Page),
    ) -> Result<Response, Refusal> {
        let Asking { head, caller, call, session, .. } = asking;
        if let Some(User { issuer, subject }) = &caller.identity().user {
            let rate = Rate::per(MINUTE, asking.estate.config.limits.connect_per_min);
            self.pages.admit("connect.user", &[(&format!("{issuer} {subject}"), rate)], trail.now)?;
        }
        let version = session.as_ref().map_or(call.version(), |session| session.version);
        page.asked = asking.declared().in_version(version).has(Capabilities::URL);
        if retry.as_ref().is_some_and(|retry| retry.declines(KEY)) {
            return Err(Refusal::GrantRefused("the user would not connect an account".to_owned()));
        }
        if call.era() == Era::Legacy || !page.asked {
            return Err(Refusal::ConnectRequired(Box::new(page)));
        }
        let asked = ask(&page)?;
        let binding = Binding {
            principal: &caller.identity().principal,
            endpoint: &head.endpoint,
            upstream: target.definition.upstream.as_str(),
            request: &call.repeated(),
        };
        let (first, round) = retry.map_or((trail.id, 0), |retry| (retry.call, retry.round));
        let expected = vec![(KEY.to_owned(), Kind::Url.as_str().to_owned())];
        let continuation = Continuation { call: first, round: round.saturating_add(1), asked: expected, to: To::Again };
        let state = continuation.seal(&self.means.sealer, &binding, trail.now, STATE_LIFE)?;
        let upstream = &target.definition.upstream;
        let asks = asked.asks.iter().map(|(key, ask)| (key.as_str(), ask));
        local::record_asked(&self.journal, trail.id, (upstream, first), asks)?;
        metrics().input_rounds.with([upstream.as_str()]).increment();
        trail.measure("", None);
        Ok(respond::answer(asked.answer(&local::asker(call)?, &state, None)))
    }

    /// Answers one request of a browser.
    pub async fn visit<B>(&self, head: Head, step: Step, body: B) -> Response
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        let trail = Trail::new(&head);
        match self.stepped(&head, &step, body, &trail).await {
            Ok(response) => response,
            Err(refusal) => {
                let outside = refusal.outside(Era::Modern);
                trail.refused(&self.journal, &refusal, &outside);
                let mut page = written(outside.status, &text_page("Not connected", &outside.message));
                let wait = outside.retry_after_ms.map(|wait_ms| HeaderValue::from(wait_ms.div_ceil(1000).max(1)));
                page.headers.extend(wait.map(|wait| (RETRY_AFTER, wait)));
                page
            }
        }
    }

    /// Of each address, and of all together, so many: every page asks the store, and some ask another server.
    fn admit_visitor(&self, limit: u32, trail: &Trail) -> Result<(), Refusal> {
        let all = Rate::per(MINUTE, limit.saturating_mul(EVERYBODY));
        let site = Site::of(trail.peer.ip()).to_string();
        self.pages.admit("connect", &[(&site, Rate::per(MINUTE, limit)), ("", all)], trail.now)
    }

    async fn stepped<B>(&self, head: &Head, step: &Step, body: B, trail: &Trail) -> Result<Response, Refusal>
    where
        B: Future<Output = Result<Bytes, Refusal>>,
    {
        let estate = self.estate();
        self.admit_visitor(estate.config.limits.connect_per_min, trail)?;
        let (exchange, now) = (&estate.exchange, trail.now);
        let secure = estate.config.gateway.public_url.scheme() == "https";
        let cookie = cookie(&head.headers, secure).unwrap_or_default();
        let mut upstream = exchange.visited(&cookie, now).await.ok();
        let outcome = match (step, &head.method) {
            (Step::Invitation(id), &Method::GET) => {
                let ticket = field(head.query.as_deref().unwrap_or_default().as_bytes(), TICKET).unwrap_or_default();
                exchange.invited(&ticket, id, now).await.map(|()| written(200, &invitation(id, &ticket)))
            }
            (Step::Invitation(id), _) => {
                let ticket = field(&body.await?, TICKET).unwrap_or_default();
                upstream = exchange.invited(&ticket, id, now).await.ok().map(|()| id.clone());
                exchange.enter(&ticket, id, now).await.and_then(|onward| {
                    let mut response = redirect(&onward.to)?;
                    response.headers.insert(SET_COOKIE, keep(&onward.cookie, secure)?);
                    Ok(response)
                })
            }
            (Step::Login, _) => exchange.logged_in(&cookie, answer(head), now).await.map(|came| match came {
                LoggedIn::Asked(consent) => written(200, &confirmation(&consent)),
                LoggedIn::Done(connected) => self.connected(trail, &connected, "logged_in"),
            }),
            (Step::Confirm, _) => {
                let token = field(&body.await?, TOKEN).unwrap_or_default();
                exchange.agreed(&cookie, &token, now).await.and_then(|to| redirect(&to))
            }
            (Step::Callback(id), _) => {
                let granted = exchange.granted(&cookie, id, answer(head), now).await;
                granted.map(|connected| self.connected(trail, &connected, "connected"))
            }
        };
        outcome.map_err(|strayed| {
            if let Some(upstream) = &upstream {
                self.strayed(trail, upstream, &strayed);
            }
            refusal(strayed)
        })
    }

    fn connected(&self, trail: &Trail, connected: &Connected, outcome: &str) -> Response {
        let Connected { upstream, user, scopes } = connected;
        self.note_connect(
            trail,
            &record::Connect {
                user: Some((&user.issuer, &user.subject)),
                upstream: upstream.as_str(),
                outcome,
                scopes: record::Words::Strings(scopes),
                reason: None,
                request: record::Request { peer: Some(trail.peer), ..record::Request::default() },
            },
        );
        written(200, &text_page("Connected", "You can close this page, and go on where you came from."))
    }

    /// Of a visit that there is: an attempt to connect one user's account for another is worth a look.
    fn strayed(&self, trail: &Trail, upstream: &UpstreamId, strayed: &Strayed) {
        if matches!(strayed, Strayed::Unknown | Strayed::Forged) {
            return; // counted as any refusal of strangers is: whoever has a cookie could write one without end
        }
        self.note_connect(
            trail,
            &record::Connect {
                user: None,
                upstream: upstream.as_str(),
                outcome: strayed.as_str(),
                scopes: record::Words::default(),
                reason: strayed.inside(),
                request: record::Request { peer: Some(trail.peer), ..record::Request::default() },
            },
        );
    }

    fn note_connect(&self, trail: &Trail, connect: &record::Connect<'_>) {
        tracing::info!(id = %trail.id, upstream = connect.upstream, outcome = connect.outcome, "connect");
        if !self.journal.note(journal::new_id(), connect) {
            metrics().audit_failures.increment();
        }
    }
}

fn refusal(strayed: Strayed) -> Refusal {
    match strayed {
        Strayed::Unknown => Refusal::VisitUnknown,
        Strayed::Forged | Strayed::IssuerMismatch | Strayed::OtherUser => Refusal::VisitForbidden(strayed.as_str()),
        Strayed::Declined(why) | Strayed::Unfit(why) | Strayed::Unavailable(why) => Refusal::VisitFailed(why),
    }
}

/// What another server says, in the query by which it sends the browser back.
fn answer(head: &Head) -> Answer {
    let query = head.query.as_deref().unwrap_or_default().as_bytes();
    Answer {
        code: field(query, "code").map(Secret::new),
        state: field(query, "state"),
        issuer: field(query, "iss"),
        error: field(query, "error").map(|error| error.chars().filter(char::is_ascii_graphic).take(64).collect()),
    }
}

/// The one field of this name; two are as good as none (RFC 6749 §3.1).
fn field(form: &[u8], name: &str) -> Option<String> {
    let mut values = form_urlencoded::parse(form).filter(|(known, _)| known == name).map(|(_, value)| value);
    let (first, second) = (values.next()?, values.next());
    (second.is_none() && first.len() <= FIELD_BYTES_MAX).then(|| first.into_owned())
}

const fn cookie_name(secure: bool) -> &'static str {
    // The prefix keeps other hosts of the domain from setting it; browsers take it over TLS only.
    if secure { "__Host-tollgate-connect" } else { "tollgate-connect" }
}

fn cookie(headers: &HeaderMap, secure: bool) -> Option<String> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == cookie_name(secure)).map(|(_, value)| value.to_owned())
}

/// `Lax`: the browser shows it when another server sends it back, and not in requests that another page makes.
fn keep(cookie: &Secret, secure: bool) -> Result<HeaderValue, Strayed> {
    let attributes = if secure { "; Secure" } else { "" };
    let text = format!("{}={}; Path=/; HttpOnly; SameSite=Lax{attributes}", cookie_name(secure), cookie.expose());
    let mut value = HeaderValue::try_from(text).map_err(|error| Strayed::Unavailable(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// 303: the next request is a GET, whatever this one was (RFC 9110 §15.4.4).
fn redirect(to: &url::Url) -> Result<Response, Strayed> {
    let mut response = Response { status: 303, headers: guarded(), body: Body::Empty };
    let to = HeaderValue::from_str(to.as_str()).map_err(|error| Strayed::Unfit(error.to_string()))?;
    response.headers.insert(LOCATION, to);
    Ok(response)
}

/// A page runs nothing, loads nothing, is in no frame of another's, and tells nobody where its reader came from.
fn guarded() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let policy = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // Of this origin a form's request has to say that it is.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    headers
}

fn written(status: u16, page: &str) -> Response {
    let mut headers = guarded();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Response { status, headers, body: Body::Whole(Bytes::copy_from_slice(page.as_bytes())) }
}

/// A link is followed by more than people: only the button spends the ticket.
fn invitation(upstream: &UpstreamId, ticket: &str) -> String {
    let (upstream, ticket) = (escaped(upstream.as_str()), escaped(ticket));
    page(
        &format!("Connect {upstream}"),
        &format!(
            "<p>An agent that works for you needs an account of yours at <b>{upstream}</b>. You log in first, so that nobody \
             else can connect your account.</p><p>If you did not expect this, close the page.</p>\
             <form method=\"post\"><input type=\"hidden\" name=\"{TICKET}\" value=\"{ticket}\">\
             <button>Log in</button></form>"
        ),
    )
}

fn confirmation(consent: &Consent) -> String {
    let Consent { upstream, server, agent, user, scopes, token } = consent;
    let (upstream, server, agent) = (escaped(upstream.as_str()), escaped(server), escaped(agent));
    let (subject, issuer) = (escaped(&user.subject), escaped(&user.issuer));
    let scopes: String = scopes.iter().map(|scope| format!("<li>{}</li>", escaped(scope))).collect();
    let asked = if scopes.is_empty() { String::new() } else { format!("<p>What is asked for:</p><ul>{scopes}</ul>") };
    page(
        &format!("Connect {upstream}"),
        &format!(
            "<p>You are <b>{subject}</b> of {issuer}.</p><p>The agent <b>{agent}</b> wants to use your account at \
             <b>{upstream}</b>, and so may every agent of yours that policy allows it to. Next you are asked for it at \
             <b>{server}</b>.</p>{asked}\
             <form method=\"post\" action=\"/connecting/{CONFIRM}\"><input type=\"hidden\" name=\"{TOKEN}\" value=\"{}\">\
             <button>Connect</button></form><p>To refuse, close the page.</p>",
            escaped(token.expose())
        ),
    )
}

fn text_page(title: &str, text: &str) -> String {
    page(title, &format!("<p>{}</p>", escaped(text)))
}

/// `title` and `body` are HTML.
fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"></head><body><h1>{title}</h1>{body}</body></html>\n"
    )
}

fn escaped(text: &str) -> String {
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

/// The key of the one thing that is asked.
const KEY: &str = "connect";

const CONFIRM: &str = "confirm";
const TICKET: &str = "ticket";
const TOKEN: &str = "token";

/// HTML, Cross-Origin-Opener-Policy.
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Bytes of a field: codes of some providers are long.
const FIELD_BYTES_MAX: usize = 4 * 1024;

/// A person logs in and agrees within this, or the call is made anew.
const STATE_LIFE: Duration = Duration::from_secs(600);

/// What `limits.connect_per_min` counts by.
const MINUTE: Duration = Duration::from_secs(60);

/// So many addresses may open as many pages as one may.
const EVERYBODY: u32 = 100;

#[cfg(test)]
mod tests {
    use super::{Step, escaped, field};
    use crate::config::UpstreamId;

    #[test]
    fn a_page_has_one_path() {
        let crm = UpstreamId::parse("crm").unwrap();
        for (path, expected) in [
            ("/connect/crm", Some(Step::Invitation(crm.clone()))),
            ("/connect/login", Some(Step::Invitation(UpstreamId::parse("login").unwrap()))),
            ("/connecting/login", Some(Step::Login)),
            ("/connecting/confirm", Some(Step::Confirm)),
            ("/connecting/callback/crm", Some(Step::Callback(crm))),
            ("/connecting/callback", None),
            ("/connecting/callback/", None),
            ("/connecting/callback/crm/", None),
            ("/connect/", None),
            ("/connect/crm/", None),
            ("/connect/../x", None),
            ("/connecting/", None),
            ("/connecting/CALLBACK/crm", None),
        ] {
            assert_eq!(Step::of(path), expected, "{path}");
        }
    }

    #[test]
    fn what_stands_on_a_page_is_text() {
        assert_eq!(escaped("<b a=\"x\">'&\u{202e}"), "&lt;b a=&quot;x&quot;&gt;&#39;&amp;\u{fffd}");
        assert_eq!(field(b"a=1&b=%3C2%3E", "b").as_deref(), Some("<2>"));
        assert_eq!(field(b"a=1&a=2", "a"), None);
        assert_eq!(field(b"", "a"), None);
    }
}
