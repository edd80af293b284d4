//! With which keys does a client sign?
//!
//! Those that the configuration, its registration or its own document gives, or that lie where that says (RFC 7591 §2): asked
//! for by the rules of `[egress]`, kept for a while, and asked for again where an assertion names a key that is not among
//! them. An assertion is good once.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header::ACCEPT};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use super::{At, Facade, clients::REGISTERED, documents::trusted, fetches::Fetches, keys::unavailable};
use crate::{
    clock::Timestamp,
    config,
    digest::name_of,
    egress::{self, Bounds},
    identity::assertion::{Asserted, ClientKeys as Read},
    refusal::{Refusal, TokenFault},
    state::{Place, Rate, Value},
};

/// Where the keys of a client are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ClientKeys {
    /// Here: a JWK Set.
    Set(String),
    /// At this address.
    At(String),
}

impl ClientKeys {
    /// A JWK Set that a client gives.
    pub(super) fn given(set: String) -> Result<Self, &'static str> {
        if set.len() > SET_BYTES_MAX {
            return Err("`jwks` is too large");
        }
        Read::read(set.as_bytes())?;
        Ok(Self::Set(set))
    }

    /// The set, where it is here.
    pub(super) fn set(&self) -> Option<serde_json::Value> {
        if let Self::Set(set) = self { serde_json::from_str(set).ok() } else { None }
    }
}

/// An assertion that is its client's: good once, so that it has to be known by this name for so long.
pub(super) struct Mark {
    name: [u8; 32],
    until: Timestamp,
}

/// The key sets that were read.
pub(super) struct KeySets {
    client: egress::Client,
    known: Cache<String, Arc<Known>>,
    fetches: Fetches,
}

/// What reading came to, when, and until when that is relied on.
struct Known {
    read: Result<Arc<Read>, String>,
    at: Timestamp,
    until: Timestamp,
}

impl fmt::Debug for KeySets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeySets").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl KeySets {
    pub(super) fn new(egress: &config::Egress) -> Result<Self, String> {
        let client = egress::Client::outside(egress).map_err(|error| format!("egress: {error}"))?;
        Ok(Self { client, known: Cache::new(SETS_MAX), fetches: Fetches::new("key sets of clients") })
    }

    /// The keys at `url`, where `fits` takes what is known of them; read now otherwise, for the stranger who comes from
    /// there, or for a client of the configuration. Those that are good stay so while no better ones are to be had.
    async fn of(
        &self,
        (url, stranger): (&str, Option<IpAddr>),
        now: Timestamp,
        fits: impl Fn(&Known) -> bool,
    ) -> Result<Arc<Known>, Refusal> {
        let known = || self.known.get(url).filter(|known| fits(known));
        if let Some(known) = known() {
            return Ok(known);
        }
        let turn = self.fetches.turn(url);
        let _turn = turn.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let _room = stranger.map(|peer| self.fetches.room(peer, now)).transpose()?;
        let read = self.fetch(url).await;
        let before = self.known.get(url).filter(|before| before.read.is_ok() && now < before.until);
        let known = match (read, before) {
            (Err(_why), Some(before)) => Known { read: before.read.clone(), at: now, until: before.until },
            (read, _) => {
                let until = now.plus(if read.is_ok() { BELIEVED_FOR } else { REFUSED_FOR });
                Known { read: read.map(Arc::new), at: now, until }
            }
        };
        let known = Arc::new(known);
        self.known.insert(url.to_owned(), Arc::clone(&known));
        Ok(known)
    }

    async fn fetch(&self, url: &str) -> Result<Read, String> {
        let request = Request::get(url).header(ACCEPT, "application/jwk-set+json, application/json").body(Bytes::new());
        let request = request.map_err(|error| error.to_string())?;
        let response = self.client.fetch(request, BOUNDS).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("answered {}", response.status().as_u16()));
        }
        Read::read(response.body()).map_err(str::to_owned)
    }

    /// What the keys at `url` say of an assertion.
    async fn check(
        &self,
        (url, stranger): (&str, Option<IpAddr>),
        judge: impl Fn(&Read) -> Result<Asserted, TokenFault>,
        now: Timestamp,
    ) -> Result<Asserted, Refusal> {
        let judged = |known: &Known| match &known.read {
            Ok(read) => Ok(judge(read)),
            Err(why) => Err(Refusal::ClientInvalid(format!("the keys at `{url}`: {why}").into())),
        };
        let first = judged(&*self.of((url, stranger), now, |known| now < known.until).await?)?;
        // Keys change; how often that is believed does not depend on who says so.
        let again = |known: &Known| now.since(known.at) < REREAD_AFTER;
        let found = match first {
            Err(TokenFault::KeyUnknown) => judged(&*self.of((url, stranger), now, again).await?)?,
            first => first,
        };
        found.map_err(not_its)
    }
}

impl Facade {
    /// Whether `client` made this assertion, for this server (RFC 7523 §3); it counts as shown once [`Facade::mark`] says so.
    pub(super) async fn asserted(
        &self,
        at: &At<'_>,
        (client, keys): (&str, &ClientKeys),
        text: &str,
    ) -> Result<Mark, Refusal> {
        let issuer = &at.config.own.issuer;
        // Clients whose URLs end a bare host with a slash name the issuer so, too.
        let audiences = [issuer.clone(), format!("{issuer}/"), format!("{issuer}/token")];
        let judge = |read: &Read| read.check(text, (client, &audiences), at.now);
        let found = match keys {
            ClientKeys::Set(set) => {
                let read = Read::read(set.as_bytes()).map_err(|why| Refusal::ClientInvalid(why.into()))?;
                judge(&read).map_err(not_its)?
            }
            ClientKeys::At(url) => {
                // What a client says of itself leads to hosts that may say so, as its document does.
                if client.starts_with("https://") || client.starts_with(REGISTERED) {
                    let trusted = trusted(url, &at.config.client_domains);
                    trusted.map_err(|why| Refusal::ClientInvalid(format!("its `jwks_uri`: {why}").into()))?;
                    self.client_keys.check((url, Some(at.peer.ip())), judge, at.now).await?
                } else {
                    self.machine_keys.check((url, None), judge, at.now).await?
                }
            }
        };
        let name = name_of("client assertion", &[client, &found.id]);
        Ok(Mark { name, until: found.until })
    }

    /// Notes that an assertion was shown. Keys are free to whoever registers them: it is kept once what came with it was found
    /// good, so that strangers fill no room.
    pub(super) async fn mark(&self, mark: Option<&Mark>, now: Timestamp) -> Result<(), Refusal> {
        let Some(Mark { name, until }) = mark else { return Ok(()) };
        let value = Value { bytes: Vec::new(), until: Some(*until) };
        if self.store.claim(Place::ClientAssertion, name, value, now).await.map_err(unavailable)? {
            Ok(())
        } else {
            Err(Refusal::ClientInvalid("its assertion was shown before".into()))
        }
    }
}

/// How often somebody's client may show an assertion that is to be remembered: one client, and all of theirs together. Each
/// is kept for an hour at most, so that nobody fills the room for all.
pub(super) fn rates() -> (Rate, Rate) {
    (Rate::per(MINUTE, CLIENT_PER_MIN), Rate::per(MINUTE, PERSON_PER_MIN))
}

fn not_its(fault: TokenFault) -> Refusal {
    Refusal::ClientInvalid(format!("its assertion: {}", Refusal::TokenInvalid(fault).inside()).into())
}

const MINUTE: Duration = Duration::from_secs(60);
/// Assertions that are remembered of one client of one person, and of one person.
const CLIENT_PER_MIN: u32 = 60;
const PERSON_PER_MIN: u32 = 120;
/// Bytes of a set that is kept with a registration: a handful of keys.
const SET_BYTES_MAX: usize = 8 * 1024;
/// Sixty-four keys with certificates.
const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(3), bytes_max: 256 * 1024 };
/// Addresses whose sets are kept.
const SETS_MAX: usize = 1_024;
/// How long a set is believed, and how long one that cannot be had or used is not asked for again.
const BELIEVED_FOR: Duration = Duration::from_secs(300);
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// How soon a set is read again for a key that is not in it.
const REREAD_AFTER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_that_are_good_stay_so_while_no_better_ones_are_to_be_had() {
        let sets = KeySets::new(&config::Egress::default()).unwrap();
        // Nobody is dialled there.
        let (url, now) = ("https://127.0.0.1/jwks", Timestamp::from_unix_seconds(1_800_000_000));
        let set = br#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
        let read = Read::read(set).map(Arc::new).map_err(str::to_owned);
        sets.known.insert(url.to_owned(), Arc::new(Known { read, at: now, until: now.plus(BELIEVED_FOR) }));
        let later = now.plus(REREAD_AFTER);
        let unknown = sets.check((url, None), |_| Err(TokenFault::KeyUnknown), later).await;
        assert!(matches!(unknown, Err(Refusal::ClientInvalid(_))), "{unknown:?}");
        let found = |_: &Read| Ok(Asserted { id: "1".to_owned(), until: now });
        assert!(sets.check((url, None), found, later).await.is_ok());
        assert_eq!(sets.known.get(url).map(|known| known.at), Some(later), "and are not asked for again at once");
        assert!(sets.check((url, None), found, now.plus(BELIEVED_FOR)).await.is_err(), "as long as they were to be");
    }
}
