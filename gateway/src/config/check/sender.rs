//! What is wrong with what senders have to show: `gateway.dpop` and `[[certificates]]`?
//!
//! It does not look at the listener's own certificate.

use toml::Spanned;

use super::{Checker, Place, values::is_name};
use crate::config::{
    checked::{CertificateHolder, CertificateName, Dpop, Gateway},
    written::{self, Key},
};

impl Checker<'_> {
    pub(super) fn dpop(&mut self, written: &written::Dpop) -> Dpop {
        let algorithms = match &written.algorithms {
            Some(algorithms) => self.algorithms(algorithms),
            None => PROOF_ALGORITHMS.map(str::to_owned).to_vec(),
        };
        Dpop {
            required: written.required.as_ref().is_some_and(|key| *key.get_ref()),
            nonce: written.nonce.as_ref().is_some_and(|key| *key.get_ref()),
            algorithms,
            // RFC 9449 §11.1: "on the order of seconds or minutes".
            window: self.seconds(&written.window_s, &(5..=300), 60),
        }
    }

    pub(super) fn holders(
        &mut self,
        written: &[Spanned<written::CertificateHolder>],
        gateway: Option<&Gateway>,
    ) -> Vec<CertificateHolder> {
        let mut holders: Vec<CertificateHolder> = Vec::new();
        for table in written {
            let place = Place { name: "`[[certificates]]`".to_owned(), span: table.span() };
            if gateway.is_some_and(|gateway| gateway.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none())) {
                let help = "add `client_ca` to `gateway.tls`: whose certificates clients may show";
                self.problem("no client is asked for a certificate", table.span(), "nobody can be this", help);
            }
            let Some(holder) = self.certificate_holder(table.get_ref(), &place) else { continue };
            if holders.iter().any(|known| known.name == holder.name) {
                let help = "remove one: a certificate names one agent";
                self.problem("two `[[certificates]]` have one name", table.span(), "again", help);
            }
            holders.push(holder);
        }
        holders
    }

    fn certificate_holder(&mut self, written: &written::CertificateHolder, place: &Place) -> Option<CertificateHolder> {
        let agent = self.name(&written.agent, "an agent")?;
        let tenant = self.name(&written.tenant, "a tenant")?;
        let mut groups = self.words(written.groups.as_deref(), "a group", is_name, NAME);
        let mut scopes = self.scopes(written.scopes.as_deref());
        for list in [&mut groups, &mut scopes] {
            list.sort_unstable();
        }
        let (name, called) = self.certificate_name([&written.uri, &written.dns, &written.common_name], place)?;
        Some(CertificateHolder { name, agent: agent.unwrap_or(called), tenant, groups, scopes })
    }

    /// What a certificate calls its holder, by its `uri`, `dns` or `common_name`; and that as text.
    pub(super) fn certificate_name(
        &mut self,
        [uri, dns, common]: [&Key<String>; 3],
        place: &Place,
    ) -> Option<(CertificateName, String)> {
        let uri = self.name(uri, "a URI")?;
        let dns = self.name(dns, "a DNS name")?;
        let common = self.name(common, "a common name")?;
        match (uri, dns, common) {
            (Some(uri), None, None) => Some((CertificateName::Uri(uri.clone()), uri)),
            (None, Some(dns), None) => Some((CertificateName::Dns(dns.clone()), dns)),
            (None, None, Some(common)) => Some((CertificateName::CommonName(common.clone()), common)),
            _ => {
                let help = "write one of `uri = \"spiffe://example.org/agent\"`, `dns` and `common_name`";
                self.problem("which certificate is meant?", place.span.clone(), "needs exactly one name", help);
                None
            }
        }
    }

    /// A name that may be absent; an inner `None` is absence.
    fn name(&mut self, key: &Key<String>, what: &str) -> Option<Option<String>> {
        match key {
            Some(key) => self.word(key, what, is_name, NAME).map(Some),
            None => Some(None),
        }
    }
}

const NAME: &str = "1 to 256 characters of text";

/// Of proofs of possession: what published clients sign with.
const PROOF_ALGORITHMS: [&str; 5] = ["ES256", "ES384", "EdDSA", "PS256", "RS256"];
