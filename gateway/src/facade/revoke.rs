//! What does a client give back?
//!
//! The revocation endpoint (RFC 7009): a refresh token ends its login with all that came of it, an access token itself. What
//! is none of ours, or none any more, is as good as revoked. What ends because of it `identity::revocation` decides.

use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;
use uuid::Uuid;

use super::{
    At, Facade,
    grants::{self, Ending},
    keys::unavailable,
};
use crate::{
    clock::Timestamp,
    digest::name_of,
    identity::revocation::{self, Revocation, Whom},
    lifecycle::{Body, Response, form::Fields},
    refusal::Refusal,
    state::{Place, Rate},
};

impl Facade {
    /// `POST /revoke`.
    pub(super) async fn revoked(&self, at: &At<'_>, fields: &Fields) -> Result<Response, Refusal> {
        let token = fields.need("token", "`token` is missing")?;
        let (asking, mark) = self.asking(at, fields).await?;
        let (client, by) = (asking.id(), format!("client {}", asking.id()));
        let done = Response { status: 200, headers: HeaderMap::new(), body: Body::Empty };
        if let Some(found) = grants::behind(&self.store, token, at.now).await? {
            if found.grant.client != client {
                return Err(Refusal::CodeInvalid("the token is another client's"));
            }
            self.counted(&found.grant.person.subject, at.now)?;
            self.mark(mark.as_ref(), at.now).await?;
            let ending = Ending { why: GIVEN_BACK, by: Some(&by) };
            grants::withdraw(&self.store, &found.id, &ending, at.now).await.map_err(unavailable)?;
            return Ok(done);
        }
        let issuer = at.config.own.issuer.as_str();
        let claims = match at.estate.identity.issued(token, ("at+jwt", issuer), at.now).await {
            Ok(claims) => claims,
            Err(Refusal::TokenInvalid(_)) => return Ok(done),
            Err(refusal) => return Err(refusal),
        };
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if text("client_id") != Some(client) {
            return Err(Refusal::CodeInvalid("the token is another client's"));
        }
        let (Some(id), Some(ends)) = (text("jti"), claims.get("exp").and_then(Value::as_u64)) else { return Ok(done) };
        // One for each token, however often it comes.
        let revocation_id = given_back(issuer, id);
        let known = self.store.get(Place::Revocation, revocation_id.as_bytes(), at.now).await.map_err(unavailable)?;
        if known.is_some() {
            return Ok(done);
        }
        self.counted(text("sub").unwrap_or(client), at.now)?;
        self.mark(mark.as_ref(), at.now).await?;
        let whom = Whom::Token { name: id.to_owned(), issuer: Some(issuer.to_owned()) };
        let until = Timestamp::from_unix_seconds(ends).plus(at.config.own.leeway);
        let mut revocation = Revocation::new(whom, at.now, Some(until));
        (revocation.id, revocation.why, revocation.by) = (revocation_id, Some(GIVEN_BACK.to_owned()), Some(by));
        revocation::revoke(&self.store, &revocation, at.now).await.map_err(unavailable)?;
        Ok(done)
    }

    /// Counts what is kept as long as what it ends could have lived: for whoever the token was, and for all of them.
    fn counted(&self, subject: &str, now: Timestamp) -> Result<(), Refusal> {
        self.rates.admit("facade.revocations", &[(subject, OF_ONE), ("", OF_ALL)], now)
    }
}

/// The revocation of this token.
fn given_back(issuer: &str, id: &str) -> Uuid {
    let name = name_of("given back", &[issuer, id]);
    uuid::Builder::from_custom_bytes(name.first_chunk().copied().unwrap_or_default()).into_uuid()
}

/// Tokens given back of one person or machine, and of all.
const OF_ONE: Rate = Rate { interval: Duration::from_secs(1), burst: 50 };
const OF_ALL: Rate = Rate { interval: Duration::from_millis(200), burst: 500 };
const GIVEN_BACK: &str = "its client gave it back";
