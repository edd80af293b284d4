//! Which token does a grant give?
//!
//! The token endpoint (OAuth 2.1 §3.2): codes, refresh tokens, a client's own name, and ID-JAGs. Access tokens are
//! RFC 9068 JWTs for one endpoint of this gateway. What is issued is written down first.

use serde_json::{Value, json};

use super::{
    At, Facade,
    authorize::resource,
    binding::{self, Bound},
    client_keys::{self, Mark},
    clients::Asking,
    grants::{self, Person},
    login::is_another_s,
};
use crate::{
    audit::record::{Authorization, Authorized, Words},
    clock::Timestamp,
    config, digest,
    identity::{Held, revocation::Holder},
    lifecycle::form::Fields,
    refusal::Refusal,
};

/// A token that is to be issued.
pub(super) struct Order {
    pub(super) client: String,
    /// Nobody where the client asks in its own name.
    pub(super) person: Option<Person>,
    /// The tenant of a client's own name.
    pub(super) tenant: Option<String>,
    pub(super) resource: String,
    pub(super) scopes: Vec<String>,
    /// The login that it comes of.
    pub(super) login_id: Option<String>,
    /// When that, or what else it is given for, began: what is revoked since gives nothing any more.
    pub(super) since: Timestamp,
}

/// How a token is asked for.
pub(super) struct Asked<'f> {
    /// In the word of the journal.
    kind: &'f str,
    /// With which key.
    held: Option<Held>,
    /// Of the assertion that came with it.
    mark: Option<Mark>,
    /// What it will be bound to.
    bound: Option<Bound>,
}

impl Facade {
    /// `POST /token`.
    pub(super) async fn token(&self, at: &At<'_>, fields: &Fields) -> Result<Value, Refusal> {
        let kind = fields.need("grant_type", "`grant_type` is missing")?;
        let (asking, mark) = self.asking(at, fields).await?;
        let held = at.estate.identity.held(at.headers, at.route.path(), at.now)?;
        let bound = binding::of(at, &asking, held.as_ref())?;
        let asked = Asked { kind: if kind == JWT_BEARER { "id_jag" } else { kind }, held, mark, bound };
        match (kind, asking) {
            ("authorization_code", Asking::Personal(client)) => {
                let found = self.redeemed(&client.id, (fields, &asked), at.now).await?;
                same_resource(at, &found.grant, fields)?;
                shows_no_less(&found.grant, &asked)?;
                self.noted(at, &asked, &client.id, Some(&found.grant.person.subject)).await?;
                let scopes = found.grant.scopes.clone();
                self.given(at, &asked, found, scopes).await
            }
            ("refresh_token", Asking::Personal(client)) => {
                let (found, scopes) = self.refreshed(at, &client.id, (fields, &asked)).await?;
                self.counts(at, &found).await?;
                let found = self.renewed(at, found).await?;
                self.used(&client.id, at.now).await?;
                self.noted(at, &asked, &client.id, Some(&found.grant.person.subject)).await?;
                self.given(at, &asked, found, scopes).await
            }
            ("client_credentials", Asking::Machine(client)) => {
                let order = own(at, client, fields)?;
                self.noted(at, &asked, &client.id, None).await?;
                self.issue(at, &asked, &order).await
            }
            (JWT_BEARER, Asking::Machine(client)) => self.redeem(at, client, (fields, &asked)).await,
            ("authorization_code" | "refresh_token" | "client_credentials" | JWT_BEARER, _) => {
                Err(Refusal::GrantTypeForbidden)
            }
            _ => Err(Refusal::GrantTypeUnsupported),
        }
    }

    /// The grant that the code in `fields` leads to (OAuth 2.1 §4.1.3).
    async fn redeemed(
        &self,
        client: &str,
        (fields, asked): (&Fields, &Asked<'_>),
        now: Timestamp,
    ) -> Result<grants::Found, Refusal> {
        let code = fields.need("code", "`code` is missing")?;
        let verifier = fields.need("code_verifier", "`code_verifier` is missing")?;
        let fits = |bound: &grants::Code| {
            if bound.client != client {
                return Err(Refusal::CodeInvalid("the code is another client's"));
            }
            // OAuth 2.1 leaves it out; whoever says it says the same as before.
            if fields.get("redirect_uri").is_some_and(|uri| uri != bound.redirect_uri) {
                return Err(Refusal::CodeInvalid("another redirect URI than the code was sent to"));
            }
            if !digest::same(&digest::base64(verifier), &bound.challenge) {
                return Err(Refusal::CodeInvalid("the verifier does not fit"));
            }
            let held = asked.held.as_ref().map(|held| held.thumbprint.as_str());
            if bound.key.is_some() && bound.key.as_deref() != held {
                return Err(Refusal::CodeInvalid("the code is bound to a key that was not proven"));
            }
            Ok(())
        };
        grants::of_code(&self.store, code, fits, now).await
    }

    /// The grant that the refresh token in `fields` leads to, and no more of its scopes than are asked for (RFC 6749 §6).
    async fn refreshed(
        &self,
        at: &At<'_>,
        client: &str,
        (fields, by): (&Fields, &Asked<'_>),
    ) -> Result<(grants::Found, Vec<String>), Refusal> {
        let token = fields.need("refresh_token", "`refresh_token` is missing")?;
        let asked = fields.words("scope");
        let fits = |grant: &grants::Grant| {
            if grant.client != client {
                return Err(Refusal::CodeInvalid("the refresh token is another client's"));
            }
            shows_no_less(grant, by)?;
            // The configuration may name somebody since.
            if is_another_s(at.config, client, &grant.person.subject) {
                return Err(Refusal::CodeInvalid("the person has a name that stands for somebody else here"));
            }
            if grant.provider != at.config.provider.issuer {
                return Err(Refusal::CodeInvalid("the login was at a provider that is no more"));
            }
            if !asked.iter().all(|scope| grant.scopes.contains(scope)) {
                return Err(Refusal::ScopeInvalid);
            }
            same_resource(at, grant, fields)
        };
        let found = grants::of_refresh_token(&self.store, token, fits, at.now).await?;
        let mut scopes = found.grant.scopes.clone();
        scopes.retain(|scope| asked.is_empty() || asked.contains(scope));
        Ok((found, scopes))
    }

    /// An access token of a grant, with a refresh token for what comes after it. What led to the grant is used up last: who
    /// hears that the gateway cannot now comes again with it.
    async fn given(
        &self,
        at: &At<'_>,
        asked: &Asked<'_>,
        mut found: grants::Found,
        scopes: Vec<String>,
    ) -> Result<Value, Refusal> {
        self.counts(at, &found).await?;
        let order = Order { scopes, ..order(&found) };
        let mut answer = self.issue(at, asked, &order).await?;
        found.grant.bound.clone_from(&asked.bound);
        found.grant.proven |= asked.mark.is_some();
        let refresh = grants::use_up(&self.store, found, at.now).await?;
        if let (Some(members), Some(refresh)) = (answer.as_object_mut(), refresh) {
            members.insert("refresh_token".to_owned(), refresh.into());
        }
        Ok(answer)
    }

    /// Notes what was shown, once its sender is known to have what it came with and nothing else is to be waited for:
    /// strangers fill no room, and who is to come again may show it again.
    pub(super) async fn noted(
        &self,
        at: &At<'_>,
        asked: &Asked<'_>,
        client: &str,
        person: Option<&str>,
    ) -> Result<(), Refusal> {
        let whose: Vec<&str> = std::iter::once(client).chain(person).collect();
        if let Some(held) = &asked.held {
            at.estate.identity.note(digest::name_of("facade proof", &whose), held, at.now)?;
        }
        if let (Some(_), Some(person)) = (&asked.mark, person) {
            let (one, all) = client_keys::rates();
            self.rates.admit("facade.assertions", &[(&whose.join(" "), one), (person, all)], at.now)?;
        }
        self.mark(asked.mark.as_ref(), at.now).await
    }

    /// Whether what was granted was not revoked since; what was has ended.
    async fn counts(&self, at: &At<'_>, found: &grants::Found) -> Result<(), Refusal> {
        if let Err(revoked) = admit(at, &order(found)) {
            grants::end(&self.store, &found.id).await?;
            return Err(revoked);
        }
        Ok(())
    }

    /// Signs an access token (RFC 9068 §2.2), once it is written down.
    pub(super) async fn issue(&self, at: &At<'_>, asked: &Asked<'_>, order: &Order) -> Result<Value, Refusal> {
        admit(at, order)?;
        let id = uuid::Uuid::new_v4().to_string();
        let subject = order.person.as_ref().map_or(order.client.as_str(), |person| person.subject.as_str());
        let scope = order.scopes.join(" ");
        let mut claims = json!({
            "iss": at.config.own.issuer, "sub": subject, "aud": order.resource, "client_id": order.client, "scope": scope,
            "iat": at.now.unix_seconds(), "exp": at.now.plus(at.config.token).unix_seconds(), "jti": id,
        });
        if let Some(members) = claims.as_object_mut() {
            let tenant = order.person.as_ref().map_or(order.tenant.as_ref(), |person| person.tenant.as_ref());
            members.extend(tenant.map(|tenant| ("tenant".to_owned(), tenant.as_str().into())));
            members.extend(order.login_id.as_ref().map(|id| ("sid".to_owned(), id.as_str().into())));
            members.extend(asked.bound.as_ref().map(|bound| ("cnf".to_owned(), json!(bound))));
            if let Some(person) = &order.person {
                members.insert("groups".to_owned(), json!(person.groups));
                members.extend(person.acr.as_ref().map(|acr| ("acr".to_owned(), acr.as_str().into())));
                members.extend(person.auth_time.map(|time| ("auth_time".to_owned(), time.into())));
            }
        }
        let issued = Authorization {
            user: order.person.as_ref().map(|person| (at.config.own.issuer.as_str(), person.subject.as_str())),
            resource: Some(&order.resource),
            scopes: Words::Strings(&order.scopes),
            grant_type: Some(asked.kind),
            token_id: Some(&id),
            binding: asked.bound.as_ref().map(Bound::named),
            ..Authorization::new(Authorized::Token, &order.client, at.peer)
        };
        self.record(&issued).await?;
        let token = self.keys.sign("at+jwt", &claims, at.now)?;
        let (seconds, kind) = (at.config.token.as_secs(), Bound::token_type(asked.bound.as_ref()));
        Ok(json!({ "access_token": token, "token_type": kind, "expires_in": seconds, "scope": scope }))
    }
}

/// What a grant gives, with all its scopes.
fn order(found: &grants::Found) -> Order {
    let grants::Found { id, grant, .. } = found;
    Order {
        client: grant.client.clone(),
        person: Some(grant.person.clone()),
        tenant: None,
        resource: grant.resource.clone(),
        scopes: grant.scopes.clone(),
        login_id: Some(grants::login_id(id)),
        since: Timestamp::from_unix_ms(grant.began_ms),
    }
}

/// Whether those for whom a token would be are still welcome, with what they have it for: the token itself is newer than
/// any revocation.
fn admit(at: &At<'_>, order: &Order) -> Result<(), Refusal> {
    let person = order.person.as_ref();
    let tenant = person.map_or(order.tenant.as_deref(), |person| person.tenant.as_deref());
    let user = person.map(|person| person.subject.as_str());
    let holder = Holder::new(&at.config.own.issuer, user, &order.client, tenant);
    let revoked = at.estate.revocations.of_holder(&holder, order.since);
    revoked.map_or(Ok(()), |revoked| Err(Refusal::GrantRevoked(revoked.refusal().inside().into_owned())))
}

/// RFC 8707 §2.2: a token request may name the resource again, and no other.
fn same_resource(at: &At<'_>, grant: &grants::Grant, fields: &Fields) -> Result<(), Refusal> {
    match fields.get("resource") {
        Some(asked) if resource(&at.estate.config, Some(asked))? != grant.resource => Err(Refusal::TargetInvalid),
        _ => Ok(()),
    }
}

/// Whether who asks shows no less than before: a client that proved itself does so again, whatever it says of itself by now,
/// and what is bound stays bound. What a client that proves nothing else holds is all that says who it is (RFC 9449 §5,
/// RFC 8705 §7.1), and stays the same.
fn shows_no_less(grant: &grants::Grant, asked: &Asked<'_>) -> Result<(), Refusal> {
    let proves = asked.mark.is_some();
    if grant.proven && !proves {
        return Err(Refusal::CodeInvalid("its client proved itself before"));
    }
    let holds = if proves { asked.bound.is_some() } else { grant.bound == asked.bound };
    if grant.bound.is_some() && !holds {
        return Err(Refusal::CodeInvalid("the refresh token is bound to what was not shown"));
    }
    Ok(())
}

/// A client in its own name: what the configuration lets it have.
fn own(at: &At<'_>, client: &config::FacadeClient, fields: &Fields) -> Result<Order, Refusal> {
    let resource = resource(&at.estate.config, fields.get("resource"))?;
    let asked = fields.words("scope");
    let scopes: Vec<String> =
        client.scopes.iter().filter(|scope| asked.is_empty() || asked.contains(scope)).cloned().collect();
    if scopes.is_empty() && !asked.is_empty() {
        return Err(Refusal::ScopeInvalid);
    }
    let (client, tenant) = (client.id.clone(), client.tenant.clone());
    Ok(Order { client, person: None, tenant, resource, scopes, login_id: None, since: at.now })
}

/// RFC 7523 §2.1.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
