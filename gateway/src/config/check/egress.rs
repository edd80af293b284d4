//! What may be dialled because somebody outside named it?
//!
//! `[egress]`: exceptions from the rule that such an address is one of the public internet. It resolves no name.

use toml::Spanned;
use url::Url;

use super::Checker;
use crate::config::{
    checked::{Egress, Net, REQUESTS_PER_HOST},
    written,
};

impl Checker<'_> {
    pub(super) fn egress(&mut self, written: &written::Egress) -> Option<Egress> {
        let origins = written.origins.as_deref().unwrap_or_default();
        let nets = written.nets.as_deref().unwrap_or_default();
        let origins = origins.iter().filter_map(|origin| self.origin(origin)).collect();
        let nets = nets.iter().filter_map(|net| self.net(net)).collect();
        let ca = self.authorities(&written.ca);
        let requests_per_host_max =
            self.count(&written.requests_per_host_max, &(1..=64), u64::try_from(REQUESTS_PER_HOST).unwrap_or(u64::MAX));
        Some(Egress { origins, nets, ca: ca?, requests_per_host_max })
    }

    /// `https://host` or `https://host:port`; `http` to this machine only.
    fn origin(&mut self, written: &Spanned<String>) -> Option<Url> {
        let url = self.safe_url(written, "an origin")?;
        if url.path() != "/" || url.query().is_some() {
            let help = "write scheme, host and port alone: `https://login.corp.internal:8443`";
            self.problem(format!("`{url}` is more than an origin"), written.span(), "has a path", help);
            return None;
        }
        Some(url)
    }

    fn net(&mut self, written: &Spanned<String>) -> Option<Net> {
        let net = Net::parse(written.get_ref());
        if net.is_none() {
            let message = format!("`{}` is not a network", written.get_ref().escape_debug());
            self.problem(message, written.span(), "this text", "write `10.20.0.0/16` or `fd00:20::/32`");
        }
        net
    }
}
