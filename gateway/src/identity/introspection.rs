//! What does the issuer itself say of a token?
//!
//! Token introspection (RFC 7662): asked once a token at a time, remembered for seconds, within a budget, for whoever
//! sends us tokens that nobody made shall not reach the issuer through us, nor use up what others need. What cannot be
//! asked is no answer: the caller is told to come back, never that the token is bad. It does not know what an endpoint's
//! resource is; `mod` compares.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::{Binding, INTROSPECTION, Identity, claims, strict, token};
use crate::{
    clock::{self, Timestamp},
    config::{self, Issuer},
    egress::{Bounds, Client, EgressError, Trust},
    prover::Prover,
    refusal::{
        Refusal,
        TokenFault::{self, ClaimMalformed},
    },
    secret::Secret,
    state::Site,
    tasks,
    telemetry::metrics,
};

/// One issuer's introspection endpoint.
pub(super) struct Introspection {
    /// Whose.
    pub(super) issuer: Arc<Issuer>,
    /// As configured.
    pub(super) settings: config::Introspection,
    client: Client,
    prover: Prover,
    said: Cache<Digest, Arc<Said>, ByBytes>,
    /// Tokens that were active a while ago: they are asked about again whatever strangers do.
    familiar: Cache<Digest, ()>,
    under_way: Mutex<HashMap<Digest, watch::Receiver<Landed>>>,
    /// How many of these are about tokens that nobody shows just now.
    looks: AtomicUsize,
    places: Places,
    budget: Mutex<Budget>,
    /// Until then, in Unix milliseconds, nobody dials: the endpoint could not be reached a moment ago, or said nothing.
    closed_until: AtomicU64,
    /// When it answered last, likewise.
    answered_at: AtomicU64,
}

/// SHA-256 of a token.
type Digest = [u8; 32];

/// What a question ends with.
type Landed = Option<Arc<Said>>;

/// What came of a question, and until when it stands.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) outcome: Outcome,
    pub(super) until: Timestamp,
    bytes: usize,
    /// What an opaque token is good for by that, once somebody has looked; nothing, where it is refused.
    rights: OnceLock<Option<Rights>>,
}

/// What a credential is good for.
#[derive(Debug)]
struct Rights {
    class: [u8; 32],
    expires_at: Timestamp,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// The token is good, and these are its claims.
    Active(Map<String, Value>),
    /// It is not.
    Inactive,
    /// There is no answer.
    Unknown(Refusal),
}

/// Requests at once: strangers take no place of tokens that were good before.
#[derive(Debug)]
struct Places {
    familiar: Semaphore,
    strangers: Semaphore,
}

/// How many questions about tokens that nobody has seen may end badly: of everybody's, and of those from one site, so that
/// whoever makes tokens up leaves something for the others.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    /// Questions that may be asked now.
    left: f64,
    at: Timestamp,
    sites: HashMap<Site, Spent>,
}

/// What one site has used up of late; it is forgotten little by little.
#[derive(Debug)]
struct Spent {
    questions: f64,
    at: Timestamp,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Digest, Arc<Said>> for ByBytes {
    fn weight(&self, _digest: &Digest, said: &Arc<Said>) -> u64 {
        u64::try_from(said.bytes).unwrap_or(u64::MAX).saturating_add(ENTRY_BYTES)
    }
}

/// A question's entry; dropping it makes room for the next, also where a task dies.
struct Berth {
    introspection: Arc<Introspection>,
    digest: Digest,
    is_look: bool,
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.introspection.under_way.lock().remove(&self.digest);
        if self.is_look {
            self.introspection.looks.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Introspection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Introspection").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Introspection {
    /// # Errors
    /// What of `settings` cannot be used.
    pub(super) fn new(
        issuer: &Arc<Issuer>,
        settings: &config::Introspection,
        client: Client,
    ) -> Result<Arc<Self>, String> {
        let prover = Prover::new(&settings.client)?;
        let client = match prover.certificate().cloned() {
            None => client,
            certificate => {
                let trust = Trust { ca: issuer.ca.clone(), client_certificate: certificate, ..Trust::default() };
                Client::new(&trust).map_err(|error| error.to_string())?
            }
        };
        Ok(Arc::new(Self {
            issuer: Arc::clone(issuer),
            prover,
            settings: settings.clone(),
            client,
            said: Cache::with_weighter(SAID_EXPECTED, SAID_BYTES_MAX, ByBytes),
            familiar: Cache::new(FAMILIAR_MAX),
            under_way: Mutex::default(),
            looks: AtomicUsize::new(0),
            places: Places { familiar: Semaphore::new(FAMILIAR_AT_ONCE), strangers: Semaphore::new(STRANGERS_AT_ONCE) },
            budget: Mutex::new(Budget::new(settings.unknown_per_s)),
            closed_until: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
        }))
    }

    /// What the issuer says of `text`, whose SHA-256 is `digest`: from a moment ago, from a question under way, or from
    /// one that begins now. The question is a task of its own: whoever leaves does not take the answer with them. It came
    /// from `site`.
    pub(super) async fn ask(
        self: &Arc<Self>,
        (digest, text): (Digest, &str),
        site: Site,
        now: Timestamp,
    ) -> Result<Arc<Said>, Refusal> {
        let mut landing = match self.board((digest, text), Some(site), now)? {
            Boarded::Known(said) => return said.told(),
            Boarded::Waiting(landing) => landing,
        };
        let landed = tokio::time::timeout(WAIT_MAX, landing.wait_for(Option::is_some)).await;
        match landed {
            Ok(Ok(said)) => match said.as_ref() {
                Some(said) => Arc::clone(said).told(),
                None => Err(Refusal::Bug("a question ended with nothing")),
            },
            Ok(Err(_closed)) => Err(Refusal::Bug("a question was lost")),
            Err(_elapsed) => Err(self.unavailable("no answer in time")),
        }
    }

    /// What the issuer said of this token, which was good before, as far as is known: where it has said nothing of late a
    /// question begins, and the next look sees what came of it.
    pub(super) fn look(self: &Arc<Self>, digest: Digest, text: &str, now: Timestamp) -> Option<Arc<Said>> {
        let said = self.remembered(&digest, now);
        // Whoever waits for an answer goes first; strangers who do leave room for this.
        if said.is_none() && self.looks.load(Ordering::Relaxed) < LOOKS_MAX {
            drop(self.board((digest, text), None, now));
        }
        said
    }

    /// Forgets what was said for a token; what was said against it stands.
    pub(super) fn forget(&self, digest: &Digest) {
        if self.said.get(digest).is_some_and(|said| matches!(said.outcome, Outcome::Active(_))) {
            self.said.remove(digest);
        }
    }

    /// Whoever shows the token is at `site`; nobody shows one that the gateway knows as good.
    fn board(
        self: &Arc<Self>,
        (digest, text): (Digest, &str),
        site: Option<Site>,
        now: Timestamp,
    ) -> Result<Boarded, Refusal> {
        if let Some(said) = self.remembered(&digest, now) {
            return Ok(Boarded::Known(said));
        }
        let mut under_way = self.under_way.lock();
        if let Some(landing) = under_way.get(&digest) {
            return Ok(Boarded::Waiting(landing.clone()));
        }
        // A question that ended after the caller looked has left its answer before it gave up its berth.
        if let Some(said) = self.remembered(&digest, now) {
            return Ok(Boarded::Known(said));
        }
        let stranger = site.filter(|_| self.familiar.get(&digest).is_none());
        let most = if stranger.is_some() { STRANGERS_MAX } else { QUESTIONS_MAX };
        if under_way.len() >= most {
            return Err(Refusal::Overloaded("tokens being introspected"));
        }
        if now.unix_ms() < self.closed_until.load(Ordering::Relaxed) {
            return Err(self.unavailable("no answer a moment ago"));
        }
        if stranger.is_some_and(|site| !self.budget.lock().take(site, now)) {
            metrics().introspections.with([&self.issuer.issuer, "refused"]).increment();
            return Err(self.unavailable("too many unknown tokens"));
        }
        let (landed, landing) = watch::channel(None);
        under_way.insert(digest, landing.clone());
        drop(under_way);
        let berth = Berth { introspection: Arc::clone(self), digest, is_look: site.is_none() };
        self.looks.fetch_add(usize::from(berth.is_look), Ordering::Relaxed);
        let secret = Secret::new(text.to_owned());
        tasks::background(async move {
            let said = Arc::new(berth.introspection.question(&secret, stranger.is_none(), now).await);
            berth.introspection.keep(digest, stranger, &said);
            drop(berth);
            landed.send_replace(Some(said));
        });
        Ok(Boarded::Waiting(landing))
    }

    fn remembered(&self, digest: &Digest, now: Timestamp) -> Option<Arc<Said>> {
        self.said.get(digest).filter(|said| now < said.until)
    }

    fn keep(&self, digest: Digest, stranger: Option<Site>, said: &Arc<Said>) {
        let word = match &said.outcome {
            Outcome::Active(_) => {
                self.familiar.insert(digest, ());
                if let Some(site) = stranger {
                    self.budget.lock().give_back(site);
                }
                "active"
            }
            Outcome::Inactive => {
                self.familiar.remove(&digest);
                "inactive"
            }
            Outcome::Unknown(_) => "failed",
        };
        metrics().introspections.with([&self.issuer.issuer, word]).increment();
        self.said.insert(digest, Arc::clone(said));
    }

    /// One question. Time counts from before it, so that a slow answer does not last longer.
    async fn question(&self, text: &Secret, familiar: bool, now: Timestamp) -> Said {
        let began = clock::instant();
        let asked = self.answered(text, familiar, (now, began)).await;
        let after = now.plus(clock::instant().duration_since(began));
        match asked {
            Ok((outcome @ Outcome::Active(_), bytes)) => Said::new(outcome, now.plus(self.settings.cache), bytes),
            Ok((outcome, bytes)) => Said::new(outcome, after.plus(INACTIVE_FOR), bytes),
            Err(why) => {
                tracing::warn!(issuer = self.issuer.issuer, why, "a token could not be introspected");
                let outcome = Outcome::Unknown(self.unavailable(&why));
                Said::new(outcome, after.plus(UNKNOWN_FOR), 0)
            }
        }
    }

    async fn answered(
        &self,
        text: &Secret,
        familiar: bool,
        (now, began): (Timestamp, Instant),
    ) -> Result<(Outcome, usize), String> {
        let places = if familiar { &self.places.familiar } else { &self.places.strangers };
        let ready = async {
            let place = places.acquire().await.map_err(|_closed| "no place to ask from".to_owned())?;
            Ok::<_, String>((place, self.prover.assertion(now).await?))
        };
        let ready = tokio::time::timeout(READY_MAX, ready).await;
        let (_place, assertion) = ready.unwrap_or_else(|_elapsed| Err("no place to ask from in time".to_owned()))?;
        let request = self.written(text, assertion.as_deref().map(String::as_str))?;
        let waited = clock::instant().duration_since(began);
        let bounds = Bounds { deadline: DEADLINE.saturating_sub(waited), bytes_max: ANSWER_BYTES_MAX };
        let fetched = self.client.fetch(request, bounds).await;
        let after = now.plus(clock::instant().duration_since(began));
        self.heard(fetched.as_ref().err(), (now.plus(waited), after));
        let response = fetched.map_err(|error| error.to_string())?;
        Ok((read(&response)?, response.body().len()))
    }

    /// What came of a request that went out at `asked`, known at `now`: where nobody is there, or nobody has had an answer
    /// since, nobody dials for a moment. One answer that is late says nothing while others come.
    fn heard(&self, error: Option<&EgressError>, (asked, now): (Timestamp, Timestamp)) {
        let is_gone = match error {
            Some(EgressError::Unreachable(_)) => true,
            Some(EgressError::Timeout) => self.answered_at.load(Ordering::Relaxed) < asked.unix_ms(),
            Some(EgressError::Forbidden(_)) => false,
            Some(EgressError::Refused(_) | EgressError::Lost(_) | EgressError::TooLarge(_)) | None => {
                self.answered_at.fetch_max(now.unix_ms(), Ordering::Relaxed);
                false
            }
        };
        if is_gone {
            self.closed_until.fetch_max(now.plus(UNKNOWN_FOR).unix_ms(), Ordering::Relaxed);
        }
    }

    /// RFC 7662 §2.1.
    fn written(&self, text: &Secret, assertion: Option<&str>) -> Result<Request<Bytes>, String> {
        let mut request = Request::post(self.settings.endpoint.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        if let Some(value) = self.prover.header()? {
            request = request.header(AUTHORIZATION, value);
        }
        let mut form = Serializer::new(String::with_capacity(FORM_BYTES));
        form.append_pair("token", text.expose()).append_pair("token_type_hint", "access_token");
        self.prover.fill(&mut form, assertion);
        // The body holds the caller's token: it is wiped when the request has gone.
        let body = Bytes::from_owner(Zeroizing::new(form.finish().into_bytes()));
        request.body(body).map_err(|error| error.to_string())
    }

    fn unavailable(&self, why: &str) -> Refusal {
        Refusal::IdentityUnavailable(format!("introspection at `{}`: {why}", self.issuer.issuer))
    }
}

impl Said {
    const fn new(outcome: Outcome, until: Timestamp, bytes: usize) -> Self {
        Self { outcome, until, bytes, rights: OnceLock::new() }
    }

    /// Whether the token of `identity` is still good for all that it was when that was made of it. What has ended by its own
    /// time is another matter.
    pub(super) fn leaves(&self, identity: &Identity, asked: &Introspection, now: Timestamp) -> bool {
        let Outcome::Active(said) = &self.outcome else { return false };
        let ends = identity.authentication.expires_at;
        if ends <= now {
            return true;
        }
        let text = identity.credential.secret().expose();
        // An issuer that counts the seconds that are left may round them.
        let lasts = |said: Timestamp| said.plus(asked.issuer.leeway) >= ends;
        if token::is_signed(text) {
            let own = token::open(text).map(|own| own.claims);
            let stands = own.and_then(|own| agrees(said, &own, &asked.issuer, now));
            let granted = stands.and_then(|()| Granted::by(said, &asked.issuer));
            return granted.is_ok_and(|granted| granted.end.is_none_or(lasts) && granted.covers(&identity.scopes));
        }
        let judge = || opaque(said, asked, text, now).ok().map(|(identity, _)| Rights::of(&identity));
        let rights = self.rights.get_or_init(judge).as_ref();
        rights.is_some_and(|rights| rights.class == identity.class && lasts(rights.expires_at))
    }

    fn told(self: Arc<Self>) -> Result<Arc<Self>, Refusal> {
        match &self.outcome {
            Outcome::Active(_) | Outcome::Inactive => Ok(self),
            Outcome::Unknown(refusal) => Err(refusal.clone()),
        }
    }

    /// The claims of an active token.
    pub(super) fn claims(&self) -> Result<&Map<String, Value>, Refusal> {
        match &self.outcome {
            Outcome::Active(claims) => Ok(claims),
            Outcome::Inactive => Err(Refusal::TokenInvalid(TokenFault::Inactive)),
            Outcome::Unknown(refusal) => Err(refusal.clone()),
        }
    }
}

impl Budget {
    fn new(unknown_per_s: u32) -> Self {
        let per_second = f64::from(unknown_per_s);
        let at = Timestamp::from_unix_ms(0);
        Self { per_second, left: per_second * BURST_S, at, sites: HashMap::new() }
    }

    /// Takes one question for `site`, which has no more than it leaves to the others: half of all where it is the only one,
    /// and less the more ask, so that whoever comes next finds something.
    fn take(&mut self, site: Site, now: Timestamp) -> bool {
        let earned = self.per_second * now.since(self.at).as_secs_f64();
        self.left = self.full().min(self.left + earned);
        self.at = self.at.max(now);
        if self.sites.len() >= SITES_MAX {
            // Those that are left are few, for there were no more questions than of everybody together.
            self.sites.retain(|_, spent| spent.by(now) > 1.0);
        }
        let room = self.sites.len() < SITES_MAX || self.sites.contains_key(&site);
        if !room || self.left < 1.0 {
            return false;
        }
        let spent = self.sites.entry(site).or_insert(Spent { questions: 0.0, at: now });
        let fits = spent.by(now) < self.left;
        if fits {
            spent.questions += 1.0;
            self.left -= 1.0;
        }
        fits
    }

    /// The token was good: asking about it was no waste.
    fn give_back(&mut self, site: Site) {
        self.left = self.full().min(self.left + 1.0);
        if let Some(spent) = self.sites.get_mut(&site) {
            spent.questions = (spent.questions - 1.0).max(0.0);
        }
    }

    fn full(&self) -> f64 {
        self.per_second * BURST_S
    }
}

impl Spent {
    /// What of it still counts.
    fn by(&mut self, now: Timestamp) -> f64 {
        self.questions *= (-now.since(self.at).as_secs_f64() / BURST_S).exp();
        self.at = self.at.max(now);
        self.questions
    }
}

enum Boarded {
    Known(Arc<Said>),
    Waiting(watch::Receiver<Landed>),
}

/// RFC 7662 §2.2. What is not exactly an answer is none: `active` is a boolean, in a JSON object without duplicates, under
/// status 200. A 401 is about the gateway's own credential, never about the token (§2.3).
fn read(response: &Response<Bytes>) -> Result<Outcome, String> {
    if response.status() != StatusCode::OK {
        return Err(format!("status {}", response.status().as_u16()));
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err("the answer is not `application/json`".to_owned());
    }
    let claims = strict::object(response.body()).ok_or("the answer is no JSON object, or has a member twice")?;
    match claims.get("active") {
        Some(Value::Bool(true)) => Ok(Outcome::Active(claims)),
        Some(Value::Bool(false)) => Ok(Outcome::Inactive),
        _ => Err("`active` is not a boolean".to_owned()),
    }
}

impl Rights {
    const fn of(identity: &Identity) -> Self {
        Self { class: identity.class, expires_at: identity.authentication.expires_at }
    }
}

/// What an issuer says that a JWT of its own is still good for, where it says so (RFC 7662 §2.2).
struct Granted {
    scopes: Option<Vec<String>>,
    end: Option<Timestamp>,
}

impl Granted {
    /// `scope` by the name that the issuer's tokens have for it, or by RFC 7662's.
    fn by(said: &Map<String, Value>, issuer: &Issuer) -> Result<Self, TokenFault> {
        let scopes = if token::find(said, &issuer.claims.scope).is_some() {
            Some(claims::scopes(said, issuer)?)
        } else {
            token::text(said, "scope", "scope")?.map(|text| text.split(' ').map(str::to_owned).collect())
        };
        let end = if said.contains_key("exp") { Some(token::expires_at(said)?) } else { None };
        Ok(Self { scopes, end })
    }

    fn covers(&self, scopes: &[String]) -> bool {
        self.scopes.as_ref().is_none_or(|granted| scopes.iter().all(|scope| granted.contains(scope)))
    }
}

/// Whom an opaque token names by the claims that its issuer gives of it, and whom it is made out to.
pub(super) fn opaque(
    said: &Map<String, Value>,
    asked: &Introspection,
    text: &str,
    now: Timestamp,
) -> Result<(Identity, Vec<String>), TokenFault> {
    let judged = judged(said, asked, now)?;
    let (made_for, expires_at) = (token::audiences(&judged)?, token::expires_at(&judged)?);
    Ok((claims::identity(&judged, &asked.issuer, expires_at, text, INTROSPECTION)?, made_for))
}

/// What is left of `identity`, which a genuine JWT proved, by what its issuer says of that now.
pub(super) fn narrowed(
    said: &Map<String, Value>,
    asked: &Introspection,
    identity: Identity,
    now: Timestamp,
) -> Result<Identity, TokenFault> {
    let own = token::open(identity.credential.secret().expose())?.claims;
    agrees(said, &own, &asked.issuer, now)?;
    let granted = Granted::by(said, &asked.issuer)?;
    let mut left = identity;
    if !granted.covers(&left.scopes) {
        left.scopes.retain(|scope| granted.covers(std::slice::from_ref(scope)));
    }
    let ends = &mut left.authentication.expires_at;
    *ends = granted.end.map_or(*ends, |end| end.min(*ends));
    Ok(claims::told_apart(left))
}

/// Judges the claims of an opaque token as those of a JWT are, and gives them with the `sub` that they mean.
///
/// `iss` may be left out (RFC 7662 §2.2): whoever answers is the issuer's own endpoint. `aud` and `exp` may not: a token
/// for anybody, for ever, is no credential here.
fn judged(
    claims: &Map<String, Value>,
    introspection: &Introspection,
    now: Timestamp,
) -> Result<Map<String, Value>, TokenFault> {
    let issuer = introspection.issuer.as_ref();
    if token::text(claims, "iss", "iss")?.is_some_and(|named| named != issuer.issuer) {
        return Err(TokenFault::IssuerMismatch);
    }
    is_access_token(claims)?;
    token::check_times(claims, issuer, now)?;
    token::audiences(claims)?;
    let username = token::name(claims, "username", "username")?;
    let mut claims = claims.clone();
    if token::name(&claims, "sub", "sub")?.is_none() {
        // Whatever claim names the agent here: a subject of another name would be a person's.
        let client = claims::client_id(&claims, issuer)?.to_owned();
        if username.is_some() || !introspection.settings.machines {
            return Err(ClaimMalformed("sub"));
        }
        claims.insert("sub".to_owned(), Value::String(client));
    }
    Ok(claims)
}

/// Whether what the issuer says of a JWT is about that very token, for `claims` are believed only then.
fn agrees(
    said: &Map<String, Value>,
    claims: &Map<String, Value>,
    issuer: &Issuer,
    now: Timestamp,
) -> Result<(), TokenFault> {
    if token::text(said, "iss", "iss")?.is_some_and(|named| named != issuer.issuer) {
        return Err(TokenFault::IssuerMismatch);
    }
    is_access_token(said)?;
    if said.get("cnf").is_some_and(|bound| claims.get("cnf") != Some(bound)) {
        return Err(ClaimMalformed("cnf"));
    }
    for claim in ["sub", "client_id", "jti"] {
        if let (Some(said), Some(own)) = (said.get(claim), claims.get(claim))
            && said != own
        {
            return Err(ClaimMalformed(claim));
        }
    }
    if said.contains_key("exp") { token::check_times(said, issuer, now) } else { Ok(()) }
}

/// A refresh token is active, too. One of DPoP's says to which key it is bound (RFC 9449 §6.2).
fn is_access_token(claims: &Map<String, Value>) -> Result<(), TokenFault> {
    let bound = matches!(Binding::of(claims)?, Binding::Key(_));
    let says = |claim: &str, value: &str| {
        claims.get(claim).and_then(Value::as_str).is_some_and(|said| said.eq_ignore_ascii_case(value))
    };
    let proves = says("token_type", "dpop");
    if proves && !bound {
        return Err(TokenFault::BindingUnknown);
    }
    // Keycloak's and Cognito's own words for it.
    let other = ["Refresh", "Offline", "ID"].iter().any(|kind| says("typ", kind));
    let other = other || says("token_use", "id") || says("token_use", "refresh");
    let is_other = claims.contains_key("token_type") && !says("token_type", "bearer") && !proves;
    if other || is_other { Err(TokenFault::TypeMismatch) } else { Ok(()) }
}

/// One question, from its place in the queue to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(4);

/// Of this, the wait for the place, and what proves the gateway: what is left is the endpoint's.
const READY_MAX: Duration = Duration::from_secs(2);

/// How long a request waits for an answer that others may have asked for.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer: claims, as many as a large token holds.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Room for a form with a token of ordinary size: a form that grows leaves copies of itself behind.
const FORM_BYTES: usize = 4 * 1024;

/// A token that is not active is not asked about again so soon: it does not become active.
const INACTIVE_FOR: Duration = Duration::from_secs(10);

/// Where there was no answer, the next question about the same token waits so long; about any, where nobody was there.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// Requests at once for tokens that were good before.
const FAMILIAR_AT_ONCE: usize = 64;

/// Requests at once for tokens that nobody has seen.
const STRANGERS_AT_ONCE: usize = 16;

/// Questions about unknown tokens that may come at once: as many as so many seconds earn.
const BURST_S: f64 = 10.0;

/// Sites of which that is known.
const SITES_MAX: usize = 8 * 1024;

/// Questions under way or waiting for a place.
const QUESTIONS_MAX: usize = 1_024;

/// The room that strangers leave to those who are known.
const STRANGERS_MAX: usize = 512;

/// Of these, as many may be about tokens that nobody shows just now.
const LOOKS_MAX: usize = 64;

/// Tokens remembered as good before.
const FAMILIAR_MAX: usize = 16 * 1024;

/// Bytes of answers that are remembered.
const SAID_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// About how many answers that is.
const SAID_EXPECTED: usize = 4 * 1024;

/// What an answer costs besides its claims.
const ENTRY_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config::{ClientAuthentication, OAuthClient},
        digest::sha256,
        identity::testing::{self, NOW},
    };

    const ISSUER: &str = "https://login.example";

    fn introspection(machines: bool) -> Arc<Introspection> {
        let secret = ClientAuthentication::SecretBasic(Secret::new("s3cret".to_owned()));
        let settings = config::Introspection {
            endpoint: "https://login.example/introspect".parse().unwrap(),
            client: OAuthClient { id: "gateway".to_owned(), authentication: secret },
            opaque: true,
            jwt: false,
            machines,
            cache: Duration::from_secs(30),
            unknown_per_s: 20,
        };
        let client = Client::new(&Trust::default()).unwrap();
        Introspection::new(&Arc::new(testing::issuer(ISSUER)), &settings, client).unwrap()
    }

    fn changed(change: Value) -> Map<String, Value> {
        let mut claims = testing::claims(ISSUER, NOW);
        claims["active"] = json!(true);
        let Value::Object(changes) = change else { panic!() };
        for (claim, value) in changes {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(&claim);
            } else {
                claims[claim.as_str()] = value;
            }
        }
        claims.as_object().unwrap().clone()
    }

    #[test]
    fn an_answer_is_judged_as_a_token_is() {
        let now = NOW.unix_seconds();
        let (users, machines) = (introspection(false), introspection(true));
        for (change, expect) in [
            (json!({}), None),
            (json!({ "iss": null, "jti": null, "iat": null, "token_type": "bearer", "username": "Alice" }), None),
            (json!({ "iss": "https://evil.example" }), Some(TokenFault::IssuerMismatch)),
            (json!({ "iss": 5 }), Some(ClaimMalformed("iss"))),
            (json!({ "aud": null }), Some(ClaimMalformed("aud"))),
            (json!({ "aud": [] }), Some(ClaimMalformed("aud"))),
            (json!({ "exp": null }), Some(ClaimMalformed("exp"))),
            (json!({ "exp": now - 60 }), Some(TokenFault::Expired)),
            (json!({ "exp": now + 90_000 }), Some(TokenFault::LifetimeTooLong)),
            (json!({ "nbf": now + 60 }), Some(TokenFault::NotYetValid)),
            (json!({ "sub": null }), Some(ClaimMalformed("sub"))),
            (json!({ "sub": "" }), Some(ClaimMalformed("sub"))),
            (json!({ "username": ["a"] }), Some(ClaimMalformed("username"))),
            (json!({ "cnf": { "jkt": "x" } }), Some(ClaimMalformed("cnf"))),
            (json!({ "cnf": { "kid": testing::b64([1; 32]) } }), Some(TokenFault::BindingUnknown)),
            (json!({ "token_type": "DPoP" }), Some(TokenFault::BindingUnknown)),
            (json!({ "token_type": "DPoP", "cnf": { "jkt": testing::b64([1; 32]) } }), None),
            (json!({ "cnf": { "x5t#S256": testing::b64([1; 32]) } }), None),
            (json!({ "token_type": "refresh_token" }), Some(TokenFault::TypeMismatch)),
            (json!({ "token_type": 1 }), Some(TokenFault::TypeMismatch)),
            (json!({ "typ": "Refresh" }), Some(TokenFault::TypeMismatch)),
            (json!({ "typ": "ID" }), Some(TokenFault::TypeMismatch)),
        ] {
            assert_eq!(judged(&changed(change.clone()), &users, NOW).err(), expect, "{change}");
        }
        let nobody = judged(&changed(json!({ "sub": null })), &machines, NOW).unwrap();
        assert_eq!(nobody["sub"], "claude", "the client in its own name");
        let named = changed(json!({ "sub": null, "username": "alice" }));
        assert_eq!(judged(&named, &machines, NOW).err(), Some(ClaimMalformed("sub")), "somebody, and not said who");
        let mut renamed = testing::issuer(ISSUER);
        renamed.claims.agent = Some("app".to_owned());
        let renamed = Introspection { issuer: Arc::new(renamed), ..Arc::into_inner(introspection(true)).unwrap() };
        let machine = judged(&changed(json!({ "sub": null, "app": "robot" })), &renamed, NOW).unwrap();
        let identity = claims::identity(&machine, &renamed.issuer, NOW, "t", INTROSPECTION).unwrap();
        assert_eq!((identity.user, identity.agent.client_id.as_str()), (None, "robot"), "nobody's name");
        let neither = changed(json!({ "sub": null, "client_id": null }));
        assert_eq!(judged(&neither, &machines, NOW).err(), Some(ClaimMalformed("client_id")));
    }

    #[test]
    fn an_answer_about_another_token_is_none_about_this_one() {
        let issuer = testing::issuer(ISSUER);
        let own = changed(json!({ "active": null }));
        for (said, expect) in [
            (json!({ "active": true }), None),
            (json!({ "active": true, "sub": "alice", "jti": "t-1", "iss": ISSUER }), None),
            (json!({ "active": true, "sub": "bob" }), Some(ClaimMalformed("sub"))),
            (json!({ "active": true, "client_id": "other" }), Some(ClaimMalformed("client_id"))),
            (json!({ "active": true, "jti": "t-2" }), Some(ClaimMalformed("jti"))),
            (json!({ "active": true, "iss": "https://evil.example" }), Some(TokenFault::IssuerMismatch)),
            (json!({ "active": true, "exp": 5 }), Some(TokenFault::Expired)),
            (json!({ "active": true, "cnf": {} }), Some(TokenFault::BindingUnknown)),
            (json!({ "active": true, "cnf": { "jkt": testing::b64([1; 32]) } }), Some(ClaimMalformed("cnf"))),
        ] {
            assert_eq!(agrees(said.as_object().unwrap(), &own, &issuer, NOW).err(), expect, "{said}");
        }
    }

    #[test]
    fn a_token_is_good_for_what_its_issuer_still_says_and_no_more() {
        let asked = introspection(false);
        let now = NOW.unix_seconds();
        let text = |claims: &Map<String, Value>| {
            let header = testing::b64(r#"{"alg":"ES256","kid":"k","typ":"at+jwt"}"#);
            format!("{header}.{}.AAAA", testing::b64(Value::Object(claims.clone()).to_string()))
        };
        let own = changed(json!({ "active": null }));
        let jwt = || {
            let ends = token::expires_at(&own).unwrap();
            claims::identity(&own, &asked.issuer, ends, &text(&own), INTROSPECTION).unwrap()
        };
        let opaque_one = opaque(&changed(json!({})), &asked, "o-1", NOW).unwrap().0;
        let says = |claims: Map<String, Value>| Said::new(Outcome::Active(claims), NOW, 0);
        for (said, scopes, ends, leaves) in [
            (json!({}), 2, now + 600, true),
            (json!({ "scope": "crm:write crm:read more" }), 2, now + 600, true),
            (json!({ "scope": "crm:read" }), 1, now + 600, false),
            (json!({ "scope": "" }), 0, now + 600, false),
            (json!({ "exp": now + 300 }), 2, now + 300, false),
            (json!({ "exp": now + 598 }), 2, now + 598, true),
            (json!({ "exp": now + 900 }), 2, now + 600, true),
        ] {
            let Value::Object(said) = said else { panic!() };
            let left = narrowed(&said, &asked, jwt(), NOW).unwrap();
            assert_eq!((left.scopes.len(), left.authentication.expires_at.unix_seconds()), (scopes, ends), "{said:?}");
            assert_eq!((left.class == jwt().class, scopes), (scopes == 2, scopes), "{said:?}");
            assert_eq!(says(said.clone()).leaves(&jwt(), &asked, NOW), leaves, "{said:?}");
            assert!(says(said.clone()).leaves(&left, &asked, NOW), "it is what it is by now: {said:?}");
            // Of an opaque token there is nothing else to go by.
            let whole = changed(Value::Object(said.clone()));
            let leaves = leaves && !said.get("scope").is_some_and(|scope| scope != "crm:read crm:write");
            assert_eq!(says(whole).leaves(&opaque_one, &asked, NOW), leaves, "{said:?}");
        }
        assert_eq!(narrowed(&changed(json!({ "sub": "bob" })), &asked, jwt(), NOW).err(), Some(ClaimMalformed("sub")));
        for other in [json!({ "sub": "bob" }), json!({ "groups": ["none"] }), json!({ "aud": null })] {
            assert!(!says(changed(other.clone())).leaves(&opaque_one, &asked, NOW), "{other}");
        }
        let over = NOW.plus(Duration::from_secs(600));
        assert!(says(changed(json!({ "exp": now }))).leaves(&opaque_one, &asked, over), "it has ended by itself");
    }

    fn site(number: u16) -> Site {
        Site::of(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, 1).into())
    }

    #[test]
    fn strangers_have_a_budget_that_good_tokens_do_not_use_up() {
        let mut budget = Budget::new(20);
        assert_eq!(taken(&mut budget, 1, NOW), 100);
        assert_eq!(taken(&mut budget, 1, NOW.plus(Duration::from_millis(500))), 8);
        for _ in 0..300 {
            budget.give_back(site(1));
            assert!(budget.take(site(1), NOW));
        }
        assert!(!budget.take(site(1), NOW));
        assert_eq!(taken(&mut budget, 1, NOW.plus(Duration::from_secs(3_600))), 100);
    }

    fn taken(budget: &mut Budget, number: u16, now: Timestamp) -> usize {
        std::iter::from_fn(|| budget.take(site(number), now).then_some(())).take(500).count()
    }

    #[test]
    fn sites_leave_others_something_and_all_together_have_no_more_than_there_is() {
        let mut budget = Budget::new(20);
        assert_eq!(taken(&mut budget, 1, NOW), 100, "the burst of one");
        assert_eq!([2, 3, 4, 5].map(|number| taken(&mut budget, number, NOW)), [50, 25, 13, 6], "of all");
        // Whoever floods does not see to it that nobody else is asked about.
        let later = |ms| NOW.plus(Duration::from_millis(ms));
        assert_eq!([1, 2].map(|number| taken(&mut budget, number, later(1_000))), [0, 0]);
        assert_eq!(taken(&mut budget, 6, later(1_000)), 13);
        // One that is alone has all that there is in the end, and leaves as much to whoever comes.
        let mut budget = Budget::new(20);
        let all: usize = (0..600).map(|second| taken(&mut budget, 1, later(second * 1_000))).sum();
        assert!(taken(&mut budget, 2, later(600_000)) >= 90, "of {all}");
        assert!((10_000..=12_200).contains(&all), "{all}");
        // Sites without end are counted within bounds.
        let mut budget = Budget::new(1_000);
        for number in 0..u16::MAX {
            budget.take(site(number), later(u64::from(number)));
        }
        assert!(budget.sites.len() <= SITES_MAX, "{}", budget.sites.len());
        assert!(budget.take(site(u16::MAX), later(3_600_000)));
    }

    #[test]
    fn an_endpoint_that_is_gone_is_left_alone_for_a_moment_after_that_is_known() {
        let later = |ms| NOW.plus(Duration::from_millis(ms));
        let asked = introspection(false);
        let is_closed_at = |ms| later(ms).unix_ms() < asked.closed_until.load(Ordering::Relaxed);
        asked.heard(Some(&EgressError::Lost("by a proxy".to_owned())), (NOW, later(100)));
        asked.heard(Some(&EgressError::Timeout), (NOW, later(4_000)));
        assert!(!is_closed_at(4_000), "others were answered");
        asked.heard(Some(&EgressError::Timeout), (later(1_000), later(5_000)));
        assert!(is_closed_at(5_999) && !is_closed_at(6_000), "nobody was");
        asked.heard(Some(&EgressError::Unreachable("no route".to_owned())), (later(6_000), later(8_000)));
        assert!(is_closed_at(8_999) && !is_closed_at(9_000));
    }

    #[tokio::test]
    async fn strangers_take_no_room_of_who_is_known_and_looks_none_of_who_waits() {
        // Nothing is answered meanwhile: the test never waits.
        let many = Mutex::new(Budget::new(1_000));
        let asked = Arc::new(Introspection { budget: many, ..Arc::into_inner(introspection(false)).unwrap() });
        let token = |number: usize| (sha256(number.to_string().as_bytes()), "t");
        let board = |number: usize| asked.board(token(number), Some(site(1)), NOW);
        for number in 0..STRANGERS_MAX {
            assert!(matches!(board(number), Ok(Boarded::Waiting(_))), "{number}");
        }
        assert!(matches!(board(0), Ok(Boarded::Waiting(_))), "the same question");
        let full = Some(Refusal::Overloaded("tokens being introspected"));
        assert_eq!(board(STRANGERS_MAX).err(), full);
        let known = 1_000..1_000 + QUESTIONS_MAX;
        known.clone().for_each(|number| asked.familiar.insert(token(number).0, ()));
        assert!(matches!(board(known.start), Ok(Boarded::Waiting(_))));
        let under_way = || asked.under_way.lock().len();
        for number in known.clone().skip(1).take(LOOKS_MAX * 2) {
            assert!(asked.look(token(number).0, "t", NOW).is_none());
        }
        assert_eq!(under_way(), STRANGERS_MAX + 1 + LOOKS_MAX, "looks are some at a time");
        let boarded = known.clone().skip(1).filter(|number| board(*number).is_ok()).count();
        assert_eq!((under_way(), boarded), (QUESTIONS_MAX, QUESTIONS_MAX - STRANGERS_MAX - 1));
        assert_eq!(board(known.end - 1).err(), full);
    }
}
