//! What does a browser do?
//!
//! Follows redirects, keeps cookies for each host and sends them to no other, sends forms with the origin of their page.
//! It runs no scripts, and judges nothing.

use std::collections::BTreeMap;

use url::Url;

use super::{
    http::{Answer, Connection, begin, fetch, form},
    leaks,
};

const REDIRECTS_MAX: usize = 12;

/// One person's browser.
#[derive(Debug, Default, Clone)]
pub(crate) struct Browser {
    /// By `host:port`: unlike a real one, which has one jar for all ports of a host.
    cookies: BTreeMap<String, BTreeMap<String, String>>,
    /// Who says that they are whom, where a server asks.
    pub(crate) user: String,
}

/// A page, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) at: Url,
    pub(crate) answer: Answer,
}

impl Browser {
    /// The browser of `user`.
    pub(crate) fn of(user: &str) -> Self {
        Self { user: user.to_owned(), ..Self::default() }
    }

    /// Looks at `url`, wherever that leads.
    pub(crate) fn get(&mut self, url: &str) -> Page {
        self.travel("GET", Url::parse(url).unwrap(), &[], REDIRECTS_MAX)
    }

    /// The first answer of `url`, wherever it points.
    pub(crate) fn look(&mut self, url: &str) -> Page {
        self.travel("GET", Url::parse(url).unwrap(), &[], 0)
    }

    /// Asks for `url`, and does not wait: whoever drops the connection has closed the page.
    pub(crate) fn begin(&self, url: &str) -> Connection {
        let cookies = self.cookies_of(&Url::parse(url).unwrap());
        begin("GET", url, &[("Cookie", &cookies), ("Accept", "text/html")], b"")
    }

    /// Presses the one button of `page`, and follows where that leads.
    pub(crate) fn press(&mut self, page: &Page) -> Page {
        let (to, fields) = form_of(page);
        self.travel("POST", to, &fields, REDIRECTS_MAX)
    }

    /// The same as far as the first answer.
    pub(crate) fn press_only(&mut self, page: &Page) -> Page {
        let (to, fields) = form_of(page);
        self.travel("POST", to, &fields, 0)
    }

    fn travel(&mut self, method: &str, start: Url, fields: &[(String, String)], redirects: usize) -> Page {
        let (mut at, mut method, mut fields) = (start, method, fields.to_vec());
        for left in (0..=redirects).rev() {
            // Whoever sits before the browser says who they are at a login.
            if at.path() == "/auth" && !at.query_pairs().any(|(name, _)| name == "login_hint") {
                at.query_pairs_mut().append_pair("login_hint", &self.user);
            }
            let answer = self.send(method, &at, &fields);
            let Some(to) = answer.header("location").filter(|_| left > 0) else { return Page { at, answer } };
            at = at.join(to).unwrap();
            (method, fields) = ("GET", Vec::new());
        }
        panic!("too many redirects: {at}");
    }

    fn cookies_of(&self, at: &Url) -> String {
        let jar = self.cookies.get(&host_of(at)).into_iter().flatten();
        jar.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn send(&mut self, method: &str, at: &Url, fields: &[(String, String)]) -> Answer {
        let (cookies, origin) = (self.cookies_of(at), at.origin().ascii_serialization());
        let mut headers = vec![("Cookie", cookies.as_str()), ("Accept", "text/html")];
        if method == "POST" {
            headers.extend([("Origin", origin.as_str()), ("Content-Type", "application/x-www-form-urlencoded")]);
        }
        let pairs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = fetch(method, at.as_str(), &headers, form(&pairs).as_bytes());
        let jar = self.cookies.entry(host_of(at)).or_default();
        let given = answer.head.headers().iter().filter(|(name, _)| name == "set-cookie");
        for (name, value) in given.filter_map(|(_, text)| text.split(';').next()?.split_once('=')) {
            leaks::remember_own(value);
            jar.insert(name.to_owned(), value.to_owned());
        }
        answer
    }
}

fn host_of(at: &Url) -> String {
    format!("{}:{}", at.host_str().unwrap(), at.port_or_known_default().unwrap())
}

/// Where the one form of a page goes, and what it says.
pub(crate) fn form_of(page: &Page) -> (Url, Vec<(String, String)>) {
    let text = page.answer.text();
    let form = text.split("<form").nth(1).unwrap_or_else(|| panic!("no form: {} {text}", page.answer.status()));
    let attribute =
        |tag: &str, name: &str| Some(tag.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.replace("&amp;", "&"));
    let to = attribute(form.split('>').next().unwrap(), "action");
    let to = to.map_or_else(|| page.at.clone(), |action| page.at.join(&action).unwrap());
    let inputs = form.split("<input").skip(1).map(|input| input.split('>').next().unwrap());
    let fields = inputs.map(|input| (attribute(input, "name").unwrap(), attribute(input, "value").unwrap()));
    (to, fields.collect())
}
