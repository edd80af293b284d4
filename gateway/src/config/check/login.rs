//! What is wrong with the way in which a person logs in at the gateway's own pages?
//!
//! An upstream that a user connects needs to know whom it is connected for, and only the issuer of their tokens can say.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use toml::Spanned;

use super::{Checker, Place, client::Proofs};
use crate::config::{
    checked::{Facade, Grant, Issuer, Login, Upstream, UpstreamId},
    written,
};

/// Users of the gateway's own tokens log in where its `[facade]` sends them.
pub(super) fn own(facade: &Facade) -> Login {
    Login {
        issuer: facade.own.issuer.clone(),
        provider: facade.provider.issuer.clone(),
        client: facade.client.clone(),
        scopes: facade.login_scopes.clone(),
        ca: facade.provider.ca.clone(),
    }
}

impl Checker<'_> {
    pub(super) fn logins(&mut self, written: &[Spanned<written::Login>], issuers: &[Arc<Issuer>]) -> Vec<Arc<Login>> {
        let mut logins: Vec<Arc<Login>> = Vec::new();
        for table in written {
            let place = Place { name: "`[[logins]]`".to_owned(), span: table.span() };
            let Some(login) = self.login(table.get_ref(), &place) else { continue };
            let span = table.get_ref().issuer.as_ref().map_or_else(|| table.span(), Spanned::span);
            match issuers.iter().find(|issuer| issuer.issuer == login.issuer) {
                Some(issuer) => self.logs_in(issuer, span.clone()),
                None => {
                    let help = "write one of `[[issuers]]`, to the letter: whoever logs in has to be the caller";
                    let message = format!("no caller comes from `{}`", login.issuer);
                    self.problem(message, span.clone(), "not an issuer", help);
                }
            }
            if logins.iter().any(|before| before.issuer == login.issuer) {
                let help = "remove one: a person logs in at an issuer in one way";
                self.problem(format!("issuer `{}` stands twice in `[[logins]]`", login.issuer), span, "again", help);
            }
            logins.push(Arc::new(login));
        }
        logins
    }

    /// Who logs in is known by an ID token, and that by its signature.
    pub(super) fn logs_in(&mut self, issuer: &Issuer, span: Range<usize>) {
        if !issuer.signs() {
            let help = "give its `[[issuers]]` table the `algorithms` of its ID tokens";
            self.problem(
                format!("`{}` signs nothing", issuer.issuer),
                span,
                "its ID tokens could not be checked",
                help,
            );
        }
    }

    fn login(&mut self, written: &written::Login, place: &Place) -> Option<Login> {
        let example = "issuer = \"https://login.example.com/realms/corp\"";
        let issuer = self.required(&written.issuer, place, "issuer", example);
        let issuer = issuer.and_then(|issuer| self.issuer_name(issuer));
        let example = "client = { id = \"tollgate\", secret = { env = \"TOLLGATE_CLIENT_SECRET\" } }";
        let client = self.required(&written.client, place, "client", example);
        let client = client.and_then(|client| self.client(client, issuer.as_deref(), Proofs::Any));
        let scopes = self.scopes(written.scopes.as_ref().map(|scopes| scopes.get_ref().as_slice()));
        let ca = self.authorities(&written.ca);
        let issuer = issuer?;
        Some(Login { provider: issuer.clone(), issuer, client: client?, scopes, ca: ca? })
    }

    /// Whoever connects an account has to be the caller whose agent asked, and that takes a login.
    pub(super) fn connectable(
        &mut self,
        file: &written::File,
        upstreams: &BTreeMap<UpstreamId, Arc<Upstream>>,
        logins: &[Arc<Login>],
    ) {
        for (name, table) in file.upstreams.iter().flatten() {
            let Some(upstream) = UpstreamId::parse(name.get_ref()).and_then(|id| upstreams.get(&id)) else { continue };
            let Some(at) = &table.get_ref().grant else { continue };
            if matches!(upstream.grant, Grant::UserGrant(_)) && logins.is_empty() && file.facade.is_none() {
                let help = "add `[[logins]]` with `issuer` and `client`: without it anybody could be made to connect \
                            their account for another caller";
                self.problem("nobody can log in to connect an account", at.span(), "asks a user", help);
            }
            let personal = matches!(upstream.grant, Grant::UserGrant(_) | Grant::IdJag(_));
            if personal && upstream.discovery.is_none() {
                let help = "add `discovery`, as `discovery = { strategy = \"none\" }`: the catalogue is read without a \
                            caller";
                self.problem("this upstream's catalogue cannot be read", at.span(), "needs a user", help);
            }
        }
    }
}
