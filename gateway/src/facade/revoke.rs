//! What does a client give back?
//!
//! The revocation endpoint (RFC 7009): a refresh token ends its login with all that came of it, an access token itself. What
//! is none of ours, or none any more, is as good as revoked. What ends because of it `identity::revocation` decides.

use http::HeaderMap;
use serde_json::Value;

use super::{
    At, Facade,
    grants::{self, Ending},
    keys::unavailable,
};
use crate::{
    clock::Timestamp,
    identity::revocation::{self, Revocation, Whom},
    lifecycle::{Body, Response, form::Fields},
    refusal::Refusal,
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
        self.mark(mark.as_ref(), at.now).await?;
        let whom = Whom::Token { name: id.to_owned(), issuer: Some(issuer.to_owned()) };
        let until = Timestamp::from_unix_seconds(ends).plus(at.config.own.leeway);
        let mut revocation = Revocation::new(whom, at.now, Some(until));
        (revocation.why, revocation.by) = (Some(GIVEN_BACK.to_owned()), Some(by));
        revocation::revoke(&self.store, &revocation, at.now).await.map_err(unavailable)?;
        Ok(done)
    }
}

const GIVEN_BACK: &str = "its client gave it back";
