//! May this address be dialled because somebody outside named it?
//!
//! What a client or a server names (a client's metadata document, the keys of an issuer, the authorization server of an
//! upstream) must not lead the gateway to what only the gateway can reach (SSRF). The judgement is made of the addresses
//! that are dialled, after the name is resolved, and nobody resolves it again in between (DNS rebinding). It also bounds
//! how much is asked of one host at once, and does not ask again at once what has just failed. It does not dial.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use http::Uri;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tower_service::Service;

use super::{EgressError, addresses::is_public};
use crate::{
    clock::{self, Timestamp},
    config::{Egress, Net},
};

/// Whom a client dials.
#[derive(Debug, Clone)]
pub(super) enum Reach {
    /// Whatever the administrator named.
    Configured {
        /// Whether plain HTTP may go to other machines too.
        plain_http: bool,
    },
    /// What others named.
    Outside(Arc<Outside>),
}

/// The rules for what others name, and what has come of it lately.
#[derive(Debug)]
pub(super) struct Outside {
    /// `scheme://host:port` that the administrator lets others name, wherever it is.
    origins: BTreeSet<String>,
    /// Their hosts.
    hosts: BTreeSet<String>,
    nets: Vec<Net>,
    at_once_max: usize,
    under_way: Mutex<HashMap<String, usize>>,
    failures: Cache<String, (Timestamp, EgressError)>,
    #[cfg(test)]
    pub(super) names: Mutex<HashMap<String, vec::IntoIter<Vec<IpAddr>>>>,
}

impl Outside {
    pub(super) fn new(egress: &Egress) -> Self {
        let host_of = |origin: &url::Url| origin.host_str().map(bare).map(str::to_owned);
        Self {
            origins: egress.origins.iter().map(|origin| origin.origin().ascii_serialization()).collect(),
            hosts: egress.origins.iter().filter_map(host_of).collect(),
            nets: egress.nets.clone(),
            at_once_max: egress.requests_per_host_max,
            under_way: Mutex::default(),
            failures: Cache::new(FAILURES_MAX),
            #[cfg(test)]
            names: Mutex::default(),
        }
    }

    /// Whether `uri` may be asked for, as far as it can be seen without its addresses.
    pub(super) fn admit(&self, uri: &Uri) -> Result<(), EgressError> {
        let url: url::Url = uri.to_string().parse().map_err(|_not_a_url| forbidden("not a URL"))?;
        let host = url.host_str().ok_or_else(|| forbidden("no host in the address"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(forbidden("a credential in the address"));
        }
        // Two readers of one text must see one host: what `url` would write otherwise is not dialled.
        if uri.host().is_none_or(|seen| !seen.eq_ignore_ascii_case(host)) {
            return Err(forbidden("a host in an unusual spelling"));
        }
        if self.hosts.contains(bare(host)) {
            let known = self.origins.contains(&url.origin().ascii_serialization());
            return if known { Ok(()) } else { Err(forbidden(&format!("`{host}` at another port"))) };
        }
        if url.scheme() != "https" {
            return Err(forbidden(&format!("`{host}` over anything but https")));
        }
        if url.port_or_known_default() != Some(443) {
            return Err(forbidden(&format!("`{host}` at another port than 443; `[egress] origins` may name it")));
        }
        // Nobody resolves what is an address already.
        match bare(host).parse::<IpAddr>() {
            Ok(address) => self.vet(host, address),
            Err(_a_name) => Ok(()),
        }
    }

    fn vet(&self, host: &str, address: IpAddr) -> Result<(), EgressError> {
        if is_public(address) || self.nets.iter().any(|net| net.contains(address)) {
            return Ok(());
        }
        Err(forbidden(&format!("`{host}` is not of the public internet; `[egress]` may name it")))
    }

    /// As if nothing had failed.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.failures.clear();
    }

    /// Room for one more request to the host of `uri`, unless it failed a moment ago.
    pub(super) fn begin(self: &Arc<Self>, uri: &Uri) -> Result<UnderWay, EgressError> {
        let host = authority(uri);
        let (now, whole) = (clock::now(), uri.to_string());
        let recently = |key: &str| self.failures.get(key).filter(|(until, _)| now < *until);
        if let Some((_, error)) = recently(&host).or_else(|| recently(&whole)) {
            return Err(error);
        }
        let mut under_way = self.under_way.lock();
        let all: usize = under_way.values().fold(0, |all, own| all.saturating_add(*own));
        let own = under_way.get(&host).copied().unwrap_or_default();
        if own >= self.at_once_max || all >= AT_ONCE_MAX {
            return Err(EgressError::Unreachable(format!("too many requests to `{host}` are under way")));
        }
        under_way.insert(host.clone(), own.saturating_add(1));
        drop(under_way);
        Ok(UnderWay { outside: Arc::clone(self), host, whole })
    }
}

/// A request to a host that somebody outside named, until dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    outside: Arc<Outside>,
    host: String,
    whole: String,
}

impl UnderWay {
    /// Remembers that it failed, of the host where it cannot be reached, and else of the one address.
    pub(super) fn failed(&self, error: &EgressError) {
        let key = match error {
            EgressError::Unreachable(_) | EgressError::Forbidden(_) => &self.host,
            EgressError::Refused(_) | EgressError::Timeout | EgressError::Lost(_) | EgressError::TooLarge(_) => {
                &self.whole
            }
        };
        self.outside.failures.insert(key.clone(), (clock::now().plus(FAILED_FOR), error.clone()));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = self.outside.under_way.lock();
        let left = under_way.get(&self.host).map_or(0, |own| own.saturating_sub(1));
        if left == 0 {
            under_way.remove(&self.host);
        } else {
            under_way.insert(self.host.clone(), left);
        }
    }
}

/// Resolves names, and gives only addresses that may be dialled: the connector takes them as they are.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    names: GaiResolver,
    reach: Reach,
}

impl Resolver {
    pub(super) fn new(reach: Reach) -> Self {
        Self { names: GaiResolver::new(), reach }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.names.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.reach.clone();
        #[cfg(test)]
        if let Reach::Outside(outside) = &reach
            && let Some(answers) = outside.names.lock().get_mut(name.as_str())
        {
            let answer = answers.next().unwrap_or_default();
            let vetted = vetted(&reach, &name, answer.into_iter().map(|address| SocketAddr::new(address, 0)).collect());
            return Box::pin(std::future::ready(vetted));
        }
        let resolving = self.names.call(name.clone());
        Box::pin(async move { vetted(&reach, &name, resolving.await?.collect()) })
    }
}

/// All of `found`, or nothing where one of them may not be dialled: a name that leads in and out is a trap.
fn vetted(reach: &Reach, name: &Name, found: Vec<SocketAddr>) -> io::Result<vec::IntoIter<SocketAddr>> {
    if let Reach::Outside(outside) = reach
        && !outside.hosts.contains(&name.as_str().to_ascii_lowercase())
    {
        for address in &found {
            outside.vet(name.as_str(), address.ip()).map_err(|error| io::Error::other(Refused(error)))?;
        }
    }
    Ok(found.into_iter())
}

/// An [`EgressError`] on its way through the connector.
#[derive(Debug)]
struct Refused(EgressError);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Error for Refused {}

/// Whether somewhere under `error` lies that the address may not be dialled.
pub(super) fn refused(error: &(dyn Error + 'static)) -> Option<EgressError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(Refused(error)) = error.downcast_ref() {
            return Some(error.clone());
        }
        // `io::Error` has what it was made of beside its sources.
        let made_of = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(Refused(error)) = made_of.and_then(|inner| inner.downcast_ref()) {
            return Some(error.clone());
        }
        next = error.source();
    }
    None
}

fn authority(uri: &Uri) -> String {
    uri.authority().map(|authority| authority.as_str().to_ascii_lowercase()).unwrap_or_default()
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn forbidden(why: &str) -> EgressError {
    EgressError::Forbidden(why.to_owned())
}

/// Requests at once to hosts that others named, over all of them.
const AT_ONCE_MAX: usize = 256;

/// Failures remembered.
const FAILURES_MAX: usize = 1_024;

/// How long what failed is not asked again.
const FAILED_FOR: Duration = Duration::from_secs(5);
