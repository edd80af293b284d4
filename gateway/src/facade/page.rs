//! What is a person asked, and told, where the gateway logs them in?
//!
//! Two pages: one asks for consent (RA-08), one says what went wrong.

use super::redirect;
use crate::{
    lifecycle::{
        Response,
        page::{self, escaped, page},
    },
    refusal::Outside,
};

/// What consent is asked for.
pub(super) struct Question<'a> {
    pub(super) client_id: &'a str,
    pub(super) client_name: &'a str,
    pub(super) redirect_uri: &'a str,
    pub(super) resource: &'a str,
    pub(super) scopes: &'a [String],
    /// What brings the answer back to this request: sealed.
    pub(super) ticket: &'a str,
}

/// The page that asks.
pub(super) fn consent(question: &Question<'_>) -> Response {
    let name = escaped(question.client_name);
    let whence = match question.client_id.strip_prefix("https://") {
        Some(rest) => {
            let host = rest.split('/').next().unwrap_or_default();
            format!("<p>It is described by <strong>{}</strong>.</p>", escaped(host))
        }
        None => "<p>It chose this name itself; nobody has checked it.</p>".to_owned(),
    };
    let whither = escaped(&redirect::shown(question.redirect_uri));
    let warning = if redirect::is_web(question.redirect_uri) {
        String::new()
    } else {
        "<p><strong>This is a program on your computer.</strong> Any program there could pretend to be it: go on only if \
         you have just started this login yourself.</p>"
            .to_owned()
    };
    let scopes: String =
        question.scopes.iter().map(|scope| format!("<li><code>{}</code></li>", escaped(scope))).collect();
    let scopes = if scopes.is_empty() { "<li>no more than to know who you are</li>".to_owned() } else { scopes };
    let (resource, ticket) = (escaped(question.resource), escaped(question.ticket));
    let body = format!(
        "<p><strong>{name}</strong> wants to use <code>{resource}</code> in your name.</p>{whence}\
         <h2>It asks for</h2><ul>{scopes}</ul>\
         <h2>Afterwards you return to</h2><p><strong>{whither}</strong></p>{warning}\
         <form method=\"post\" action=\"/authorize\"><input type=\"hidden\" name=\"ticket\" value=\"{ticket}\">\
         <button type=\"submit\" name=\"decision\" value=\"allow\">Allow and log in</button> \
         <button type=\"submit\" name=\"decision\" value=\"deny\">Deny</button></form>"
    );
    page(200, &format!("Let {name} act for you?"), &body)
}

/// The page that says what went wrong, where it is not said to the client at once; `link` is the client's place with its
/// host.
pub(super) fn wrong(outside: &Outside, link: Option<(&str, String)>) -> Response {
    let back =
        link.map(|(place, host)| format!("<p><a href=\"{}\">Back to {}</a></p>", escaped(place), escaped(&host)));
    page::wrong("No login", outside, &back.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Question, consent};
    use crate::lifecycle::Body;

    #[test]
    fn nothing_that_a_stranger_wrote_is_markup() {
        let nasty = "\"'><script>alert(1)</script>&";
        let question = Question {
            client_id: nasty,
            client_name: nasty,
            redirect_uri: "https://app.example/\"><script>",
            resource: nasty,
            scopes: &[nasty.to_owned()],
            ticket: nasty,
        };
        let response = consent(&question);
        let Body::Whole(text) = response.body else { panic!("no page") };
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(!text.contains("<script") && !text.contains("value=\"\"'"), "{text}");
        assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && text.contains("app.example"));
        let policy = response.headers.get("content-security-policy").unwrap();
        assert!(policy.to_str().unwrap().contains("frame-ancestors 'none'"));
    }
}
