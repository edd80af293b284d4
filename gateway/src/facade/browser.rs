//! Is this the browser that it was before?
//!
//! Two `__Host-` cookies (RA-08): a random name for the browser, which binds each page and each login to it, and a sealed
//! note of who logged in there last, which spares a person a page that they have answered. Neither is a session: every
//! login is the provider's.

use std::time::Duration;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    digest,
    lifecycle::page::{cookie, keep},
    random,
    refusal::Refusal,
    state::Sealer,
};

/// A browser, by the random name that it was given.
pub(super) struct Browser(String);

/// Who logged in last, in which browser.
#[derive(Serialize, Deserialize)]
struct Last {
    subject: String,
    browser: String,
    until_ms: u64,
}

impl Browser {
    /// The browser that sent these headers, if it was here before.
    pub(super) fn known(headers: &HeaderMap) -> Option<Self> {
        cookie(headers, BROWSER).filter(|name| random::is_unguessable(name)).map(|name| Self(name.to_owned()))
    }

    /// The same, or a new one.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        Self::known(headers).map_or_else(|| Ok(Self(random::unguessable()?)), Ok)
    }

    /// What a page or a login keeps of it.
    pub(super) fn digest(&self) -> String {
        digest::base64(&self.0)
    }

    /// Whether this is the browser that `digest` was kept of.
    pub(super) fn is(&self, digest: &str) -> bool {
        digest::same(&self.digest(), digest)
    }

    /// Gives it its name.
    pub(super) fn name(&self, headers: &mut HeaderMap) {
        keep(headers, BROWSER, &self.0, KNOWN_FOR);
    }

    /// Who logged in here last.
    pub(super) fn last(&self, headers: &HeaderMap, sealer: &Sealer, now: Timestamp) -> Option<String> {
        let last: Last = serde_json::from_slice(&sealer.open(PURPOSE, cookie(headers, LAST)?)?).ok()?;
        let fits = self.is(&last.browser) && now.unix_ms() < last.until_ms;
        fits.then_some(last.subject)
    }

    /// Notes who did.
    pub(super) fn note(
        &self,
        subject: &str,
        sealer: &Sealer,
        headers: &mut HeaderMap,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let last =
            Last { subject: subject.to_owned(), browser: self.digest(), until_ms: now.plus(KNOWN_FOR).unix_ms() };
        let text = serde_json::to_vec(&last).map_err(|_not_json| Refusal::Bug("a note that is no JSON"))?;
        keep(headers, LAST, &sealer.seal(PURPOSE, text)?, KNOWN_FOR);
        Ok(())
    }
}

const BROWSER: &str = "tollgate-browser";
const LAST: &str = "tollgate-last";
const PURPOSE: &str = "facade last login";
const KNOWN_FOR: Duration = Duration::from_secs(12 * 3600);
