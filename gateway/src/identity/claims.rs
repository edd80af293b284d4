//! Whom do these claims name?
//!
//! Verified claims in, an [`Identity`] out, by the names that the issuer's configuration gives them.
//! It verifies nothing: `token` has done so.

use serde_json::{Map, Value};

use super::{Agent, Authentication, Binding, Credential, Identity, User, Vouched, metadata, token};
use crate::{
    clock::Timestamp,
    config::Issuer,
    digest::{self, Name},
    refusal::TokenFault::{self, ClaimMalformed},
};

/// A chain of actors longer than this says nothing that a person could still follow.
const ACTORS_MAX: usize = 8;

/// The identity that `claims` of `issuer` describe; `credential` is the token that they are about, and `method` how they
/// were had.
pub(super) fn identity(
    claims: &Map<String, Value>,
    issuer: &Issuer,
    expires_at: Timestamp,
    credential: &str,
    method: &'static str,
) -> Result<Identity, TokenFault> {
    let subject = token::name(claims, "sub", "sub")?.ok_or(ClaimMalformed("sub"))?;
    let client_id = client_id(claims, issuer)?;
    let agent = Agent { client_id: client_id.to_owned(), actors: actors(claims, issuer)? };
    let user = (!acts_alone(claims, subject, client_id))
        .then(|| User { issuer: issuer.issuer.clone(), subject: subject.to_owned() });
    let tenant = match &issuer.claims.tenant {
        Some(claim) => token::name(claims, claim, "tenant")?.map(str::to_owned),
        None => None,
    };
    Ok(told_apart(Identity {
        user,
        agent,
        tenant,
        groups: groups(claims, issuer)?,
        scopes: scopes(claims, issuer)?,
        authentication: Authentication {
            method,
            issuer: issuer.issuer.clone(),
            token_id: token::name(claims, "jti", "jti")?.map(str::to_owned),
            token_digest: digest::short(credential),
            login_id: claims.get("sid").and_then(Value::as_str).map(str::to_owned),
            acr: token::name(claims, "acr", "acr")?.map(str::to_owned),
            issued_at: token::issued_at(claims)?,
            auth_time: token::seconds(claims, "auth_time")?.map(Timestamp::from_unix_seconds),
            binding: Binding::of(claims)?,
            may_act: may_act(claims, issuer)?,
            expires_at,
        },
        principal: [0; 32],
        class: [0; 32],
        credential: Credential::new(credential.to_owned()),
    }))
}

/// `identity` with the digests that tell it from others.
pub(super) fn told_apart(mut identity: Identity) -> Identity {
    identity.principal = principal(&identity);
    identity.class = class(&identity);
    identity
}

/// The person that these claims of `issuer` are about, in a token that is no access token.
pub(super) fn vouched(
    claims: Map<String, Value>,
    issuer: &Issuer,
    expires_at: Timestamp,
) -> Result<Vouched, TokenFault> {
    let tenant = match &issuer.claims.tenant {
        Some(claim) => token::name(&claims, claim, "tenant")?.map(str::to_owned),
        None => None,
    };
    let auth_time = match claims.get("auth_time") {
        None => None,
        Some(value) => Some(value.as_u64().ok_or(ClaimMalformed("auth_time"))?),
    };
    Ok(Vouched {
        issuer: issuer.issuer.clone(),
        subject: token::name(&claims, "sub", "sub")?.ok_or(ClaimMalformed("sub"))?.to_owned(),
        tenant,
        groups: groups(&claims, issuer)?,
        acr: token::name(&claims, "acr", "acr")?.map(str::to_owned),
        auth_time,
        expires_at,
        claims,
    })
}

/// RFC 9068 §2.2 says `client_id`; OIDC's older word is `azp`.
pub(super) fn client_id<'a>(claims: &'a Map<String, Value>, issuer: &Issuer) -> Result<&'a str, TokenFault> {
    let found = match &issuer.claims.agent {
        Some(claim) => token::name(claims, claim, "agent")?,
        None => match token::name(claims, "client_id", "client_id")? {
            Some(id) => Some(id),
            None => token::name(claims, "azp", "azp")?,
        },
    };
    found.ok_or(ClaimMalformed("client_id"))
}

/// Whether the client holds this token in its own name: RFC 9068 §2.2 has `sub` name the client then. Some providers
/// say it in words of their own (Entra `idtyp`, Auth0 `gty`).
///
/// Only claims that the issuer alone writes are read: one that a person can choose, as a user name, would let them
/// pass for a machine.
fn acts_alone(claims: &Map<String, Value>, subject: &str, client_id: &str) -> bool {
    let says = |claim: &str, value: &str| claims.get(claim).and_then(Value::as_str) == Some(value);
    subject == client_id || says("idtyp", "app") || says("gty", "client-credentials")
}

/// `act`, outermost first (RFC 8693 §4.1).
fn actors(claims: &Map<String, Value>, issuer: &Issuer) -> Result<Vec<String>, TokenFault> {
    let mut actors = Vec::new();
    let mut next = claims.get("act");
    while let Some(act) = next {
        let act = act.as_object().ok_or(ClaimMalformed("act"))?;
        if actors.len() >= ACTORS_MAX {
            return Err(ClaimMalformed("act"));
        }
        actors.push(party(act, issuer, "act")?);
        next = act.get("act");
    }
    Ok(actors)
}

/// `may_act`: who may become the actor of this token (RFC 8693 §4.4).
fn may_act(claims: &Map<String, Value>, issuer: &Issuer) -> Result<Option<String>, TokenFault> {
    let Some(claim) = claims.get("may_act") else { return Ok(None) };
    party(claim.as_object().ok_or(ClaimMalformed("may_act"))?, issuer, "may_act").map(Some)
}

/// `sub`, after `iss` and a space where that is another issuer than the token's own.
fn party(named: &Map<String, Value>, issuer: &Issuer, fault: &'static str) -> Result<String, TokenFault> {
    let subject = token::name(named, "sub", fault)?.ok_or(ClaimMalformed(fault))?;
    let vouched = token::name(named, "iss", fault)?.filter(|named| *named != issuer.issuer);
    // A space joins the two names below, so neither may contain one.
    if subject.contains(char::is_whitespace) || vouched.is_some_and(|named| named.contains(char::is_whitespace)) {
        return Err(ClaimMalformed(fault));
    }
    Ok(vouched.map_or_else(|| subject.to_owned(), |named| format!("{named} {subject}")))
}

fn groups(claims: &Map<String, Value>, issuer: &Issuer) -> Result<Vec<String>, TokenFault> {
    match token::find(claims, &issuer.claims.groups) {
        None => Ok(Vec::new()),
        Some(Value::Array(groups)) => {
            let groups = token::strings(groups, "groups")?;
            if groups.iter().all(|group| token::is_name(group)) {
                Ok(sorted(groups))
            } else {
                Err(ClaimMalformed("groups"))
            }
        }
        Some(_) => Err(ClaimMalformed("groups")),
    }
}

/// A space-separated string (RFC 9068 §2.2.3); an array only under a claim of another name, such as `scp`, for that is
/// then what the administrator asked for.
pub(super) fn scopes(claims: &Map<String, Value>, issuer: &Issuer) -> Result<Vec<String>, TokenFault> {
    let claim = issuer.claims.scope.as_str();
    let scopes = match token::find(claims, claim) {
        None => Vec::new(),
        Some(Value::String(text)) => text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect(),
        Some(Value::Array(scopes)) if claim != "scope" => token::strings(scopes, "scope")?,
        Some(_) => return Err(ClaimMalformed("scope")),
    };
    if scopes.iter().all(|scope| metadata::is_scope(scope)) { Ok(sorted(scopes)) } else { Err(ClaimMalformed("scope")) }
}

pub(super) fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort_unstable();
    words.dedup();
    words
}

fn principal(identity: &Identity) -> [u8; 32] {
    let mut name = Name::of("tollgate principal 1");
    add_who(&mut name, identity);
    name.finish()
}

fn class(identity: &Identity) -> [u8; 32] {
    let authentication = &identity.authentication;
    let mut name = Name::of("tollgate class 1");
    add_who(&mut name, identity);
    name.all(identity.groups.iter());
    name.all(identity.scopes.iter());
    name.add(authentication.method);
    name.maybe(authentication.acr.as_deref());
    name.maybe(authentication.auth_time.map(|time| time.unix_seconds().to_string()));
    name.add(authentication.binding.as_str());
    name.finish()
}

fn add_who(name: &mut Name, identity: &Identity) {
    name.add(&identity.authentication.issuer);
    name.maybe(identity.user.as_ref().map(|user| user.issuer.as_str()));
    name.maybe(identity.user.as_ref().map(|user| user.subject.as_str()));
    name.add(&identity.agent.client_id);
    name.all(identity.agent.actors.iter());
    name.maybe(identity.tenant.as_deref());
}
