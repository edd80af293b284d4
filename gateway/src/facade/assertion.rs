//! For whom does another issuer vouch to this gateway?
//!
//! Redeems ID-JAGs (draft-ietf-oauth-identity-assertion-authz-grant; RA-10): of a trusted issuer, for this authorization
//! server and this client, once, for a resource of ours and no more scopes than it names and the client may have.

use super::{
    At, Facade,
    authorize::{resource, scopes},
    grants::Person,
    keys::unavailable,
    login::names_another,
    token::{Asked, Order},
};
use crate::{
    clock::Timestamp,
    config,
    digest::name_of,
    identity::Vouched,
    lifecycle::form::Fields,
    refusal::Refusal,
    state::{Place, Site, Value},
};

impl Facade {
    /// A token for the assertion in `fields`. It is marked as redeemed before the token is made, so that of two that come
    /// with it one gets a token; where no token was made after all, the mark goes again.
    pub(super) async fn redeem(
        &self,
        at: &At<'_>,
        client: &config::FacadeClient,
        (fields, asked): (&Fields, &Asked<'_>),
    ) -> Result<serde_json::Value, Refusal> {
        let (order, mark) = self.vouched(at, client, fields).await?;
        self.noted(at, asked, &client.id, None).await?;
        let value = Value { bytes: Vec::new(), until: Some(mark.until) };
        if !self.store.claim(Place::Assertion, &mark.key, value, at.now).await.map_err(unavailable)? {
            return Err(invalid("it was redeemed already"));
        }
        let issued = self.issue(at, asked, &order).await;
        if issued.is_err()
            && let Err(fault) = self.store.remove(Place::Assertion, &mark.key).await
        {
            tracing::warn!(why = %fault, "an assertion stays marked that no token was given for");
        }
        issued
    }

    /// What the assertion in `fields` gives `client`, and how it is marked.
    async fn vouched(
        &self,
        at: &At<'_>,
        client: &config::FacadeClient,
        fields: &Fields,
    ) -> Result<(Order, Mark), Refusal> {
        let text = fields.need("assertion", "`assertion` is missing")?;
        let site = Site::of(at.peer.ip());
        let found = at.estate.identity.vouched((text, Some(site)), KIND, &at.config.own.issuer, at.now).await;
        let found =
            found.map_err(
                |refusal| {
                    if let Refusal::TokenInvalid(_) = refusal { invalid(&refusal.inside()) } else { refusal }
                },
            )?;
        let resource = judged(at, (client, &found), fields)?;
        // Asked for or not, what the assertion names is the most that there is: one that names nothing gives nothing.
        let named = match found.claims.get("scope") {
            None => "",
            Some(named) => named.as_str().ok_or_else(|| invalid("its `scope` is no text"))?,
        };
        let mut given = scopes(at.estate, &resource, fields)?;
        given.retain(|scope| named.split(' ').any(|one| one == scope) && client.scopes.contains(scope));
        let mark = Mark::of(&found)?;
        let person = person(at.config, &found);
        if person.subject == client.id || person.subject.len() > NAME_BYTES_MAX {
            return Err(invalid("the person has the client's name, or one that is too long"));
        }
        // What the issuer said before a revocation is as old as that.
        let since = found.claims.get("iat").and_then(serde_json::Value::as_u64);
        let since = Timestamp::from_unix_seconds(since.unwrap_or_default());
        let (client, person) = (client.id.clone(), Some(person));
        Ok((Order { client, person, tenant: None, resource, scopes: given, login_id: None, since }, mark))
    }
}

/// By what an assertion is known that was redeemed, and for how long.
struct Mark {
    key: [u8; 32],
    until: Timestamp,
}

impl Mark {
    fn of(found: &Vouched) -> Result<Self, Refusal> {
        let id = found.claims.get("jti").and_then(serde_json::Value::as_str);
        let id = id.filter(|id| (1..=NAME_BYTES_MAX).contains(&id.len())).ok_or_else(|| invalid("no `jti`"))?;
        let key = name_of("facade assertion", &[&found.issuer, id]);
        // Clocks differ by what the issuer's leeway forgives: the mark outlives the assertion by more.
        Ok(Self { key, until: found.expires_at.plus(MARK_AFTER) })
    }
}

/// Everything but `jti`, and the resource that it is for.
fn judged(at: &At<'_>, (client, found): (&config::FacadeClient, &Vouched), fields: &Fields) -> Result<String, Refusal> {
    if !at.config.assertion_issuers.contains(&found.issuer) {
        return Err(invalid("its issuer vouches for nobody here"));
    }
    let claim = |name: &str| found.claims.get(name);
    let text = |name: &str| claim(name).and_then(serde_json::Value::as_str);
    if claim("aud").is_some_and(|aud| aud.as_array().is_some_and(|all| all.len() != 1)) {
        return Err(invalid("it is for others, too"));
    }
    if text("client_id") != Some(client.id.as_str()) {
        return Err(invalid("it is for another client"));
    }
    if claim("iat").is_none() {
        return Err(invalid("no `iat`"));
    }
    // What is not understood is not left out silently: a key that nobody shows, an actor of another issuer.
    if ["cnf", "act", "authorization_details"].iter().any(|name| claim(name).is_some()) {
        return Err(invalid("it is bound to a key, an actor or details, which is not served here"));
    }
    let named = text("resource").ok_or_else(|| invalid("no `resource`"))?;
    let named = resource(&at.estate.config, Some(named))?;
    match fields.get("resource") {
        Some(asked) if resource(&at.estate.config, Some(asked))? != named => Err(Refusal::TargetInvalid),
        _ => Ok(named),
    }
}

/// `sub` is unique with its issuer only: of any but the provider it carries the issuer's name.
fn subject(config: &config::Facade, found: &Vouched) -> String {
    if found.issuer == config.provider.issuer && !names_another(config, &found.subject) {
        found.subject.clone()
    } else {
        format!("{} {}", found.issuer, found.subject)
    }
}

/// Groups, tenants and how somebody logged in mean here what the provider means by them: another issuer vouches for its
/// people, and for nothing that rules here are written about.
fn person(config: &config::Facade, found: &Vouched) -> Person {
    let subject = subject(config, found);
    if found.issuer == config.provider.issuer {
        Person { subject, ..Person::from(found) }
    } else {
        Person { subject, tenant: None, groups: Vec::new(), acr: None, auth_time: None }
    }
}

fn invalid(why: &str) -> Refusal {
    Refusal::AssertionInvalid(why.to_owned())
}

/// `typ` of an ID-JAG.
const KIND: &str = "oauth-id-jag+jwt";
/// Bytes of a `jti`, and of a subject with its issuer.
const NAME_BYTES_MAX: usize = 256;
/// How long after its end an assertion is known to have been redeemed.
const MARK_AFTER: std::time::Duration = std::time::Duration::from_secs(120);
