//! Is this a request for us, and what does its answer look like on the wire?
//!
//! The first judgement of a request: HTTP without second readings, a `Host` and an `Origin` that are ours, an endpoint, a
//! media type. It reads no token and no body; everything that it lets in goes to [`Gateway::handle`], and everything
//! that it keeps out to [`Gateway::refuse`].

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{
        ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE,
        EXPECT, HOST, ORIGIN, TRANSFER_ENCODING, UPGRADE, X_CONTENT_TYPE_OPTIONS,
    },
    request::Parts,
};
use hyper::{Request, Response, body::Incoming};

use super::{
    activity::Busy,
    body::{self, Reply},
    connection::{Answer, Peer},
    cors,
    names::{self, Names},
};
use crate::{
    config::{Config, Endpoint, Tolerance, UpstreamId},
    facade::{Facade, Route},
    identity::Certificate,
    lifecycle::{self, Body, Gateway, Head, Step},
    refusal::Refusal,
    tasks::placed,
};

/// Protected resource metadata (RFC 9728), ready to send, by request path.
pub type Metadata = Arc<ArcSwap<HashMap<String, Bytes>>>;

/// The public listener's answers.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) inside: Inside,
    names: Names,
    metadata: Metadata,
    body_bytes_max: usize,
    body_read: Duration,
}

/// Who is behind the door.
#[derive(Debug)]
pub(super) enum Inside {
    /// The gateway, and what it is beside a gateway.
    Gateway(Arc<Gateway>, Arc<Facade>),
    /// What a test puts there.
    #[cfg(test)]
    Double(super::tests::Double),
}

/// What a request that may be answered is for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// MCP.
    Call(Endpoint),
    /// A metadata document.
    Document(Bytes),
    /// The gateway as an authorization server.
    Facade(Route),
    /// A page for a person.
    Page(Step),
    /// `OPTIONS`; the field lists what the path answers.
    Options(&'static str),
}

impl Door {
    /// The door as `config` has it.
    pub(super) fn new(inside: Inside, config: &Config, metadata: Metadata) -> Self {
        let limits = &config.limits;
        let (body_bytes_max, body_read) = (limits.body_bytes_max, limits.body_read);
        Self { inside, names: Names::of(config), metadata, body_bytes_max, body_read }
    }

    /// Judges the head of a request, in the order of spec §1.0 as far as it goes without a look at a credential (decision
    /// 0009): who shows none is told where to get one before anything of the method and of media types, and nobody hears of
    /// these where no endpoint is served.
    fn judge(&self, parts: &Parts, certificate: Option<&Certificate>) -> Result<Asked, Refusal> {
        unambiguous(parts)?;
        self.judge_host(parts)?;
        self.judge_origin(parts)?;
        let shows = certificate.is_some() || parts.headers.contains_key(AUTHORIZATION);
        self.judge_purpose(parts).map_err(|refusal| {
            let later = matches!(
                refusal,
                Refusal::MethodNotAllowed(_)
                    | Refusal::ContentTypeUnsupported
                    | Refusal::NotAcceptable
                    | Refusal::TokenMissing
            );
            match endpoint(parts.uri.path()).filter(|_| later) {
                Some(endpoint) if !self.inside.serves(&endpoint) => Refusal::RouteUnknown,
                // A probe by `HEAD` is answered as `tolerate` says.
                Some(_) if !shows && parts.method != Method::HEAD => Refusal::TokenMissing,
                Some(_) | None => refusal,
            }
        })
    }

    fn judge_purpose(&self, parts: &Parts) -> Result<Asked, Refusal> {
        let asked = self.route(parts)?;
        if let Asked::Call(_) = asked {
            self.judge_call(parts)?;
        }
        Ok(asked)
    }

    /// One name in one place, or the same name in two (RFC 9112 §3.2, RFC 9113 §8.3.1), and it is ours.
    fn judge_host(&self, parts: &Parts) -> Result<(), Refusal> {
        let mut hosts = parts.headers.get_all(HOST).iter();
        let (first, second) = (hosts.next(), hosts.next());
        let header = first.map(HeaderValue::to_str).transpose().map_err(|_not_ascii| Refusal::HostNotAllowed)?;
        let name = match (header, parts.uri.authority()) {
            (Some(header), Some(target)) if names::same_authority(header, target.as_str()) => header,
            (Some(header), None) if parts.version == Version::HTTP_11 => header,
            (None, Some(target)) if parts.version == Version::HTTP_2 => target.as_str(),
            _ => return Err(Refusal::HostNotAllowed),
        };
        if second.is_none() && self.names.host_allowed(name) { Ok(()) } else { Err(Refusal::HostNotAllowed) }
    }

    /// RS-02: an `Origin` that is there must be allowed; programs send none. To a page for people, the forms of our own
    /// pages are all that may be sent.
    fn judge_origin(&self, parts: &Parts) -> Result<(), Refusal> {
        let path = parts.uri.path();
        let is_page = Step::of(path).is_some() || self.inside.facade(path).is_some_and(Route::is_page);
        for origin in parts.headers.get_all(ORIGIN) {
            let may =
                |origin: &str| if is_page { self.names.is_own(origin) } else { self.names.origin_allowed(origin) };
            let allowed = origin.to_str().is_ok_and(may);
            if !allowed {
                return Err(Refusal::OriginNotAllowed);
            }
        }
        Ok(())
    }

    fn route(&self, parts: &Parts) -> Result<Asked, Refusal> {
        let (path, method) = (parts.uri.path(), &parts.method);
        let (endpoint, document) = (endpoint(path), self.document(path));
        let known = endpoint.is_some() || document.is_some();
        if known && path.ends_with('/') && !self.inside.forgives(Tolerance::TrailingSlash) {
            return Err(Refusal::RouteUnknown);
        }
        if let Some(endpoint) = endpoint {
            return match *method {
                Method::POST | Method::GET | Method::DELETE => Ok(Asked::Call(endpoint)),
                Method::OPTIONS => Ok(Asked::Options(CALL_METHODS)),
                // A probe before login: it is told where to log in. With a token there is nothing that HEAD could show.
                Method::HEAD
                    if !parts.headers.contains_key(AUTHORIZATION) && self.inside.forgives(Tolerance::HeadProbe) =>
                {
                    Err(Refusal::TokenMissing)
                }
                _ => Err(Refusal::MethodNotAllowed(CALL_METHODS)),
            };
        }
        if document.is_none()
            && let Some(route) = self.inside.facade(path)
        {
            let listed = route.methods().split(", ").any(|known| known == method.as_str());
            return match *method {
                Method::OPTIONS if listed => Ok(Asked::Options(route.methods())),
                _ if listed => Ok(Asked::Facade(route)),
                _ => Err(Refusal::MethodNotAllowed(route.methods())),
            };
        }
        if let Some(step) = Step::of(path) {
            return page(step, parts);
        }
        let document = document.ok_or(Refusal::RouteUnknown)?;
        match *method {
            Method::GET | Method::HEAD => Ok(Asked::Document(document)),
            Method::OPTIONS => Ok(Asked::Options(DOCUMENT_METHODS)),
            _ => Err(Refusal::MethodNotAllowed(DOCUMENT_METHODS)),
        }
    }

    fn document(&self, path: &str) -> Option<Bytes> {
        if !path.starts_with("/.well-known/") {
            return None;
        }
        self.metadata.load().get(path).cloned()
    }

    fn judge_call(&self, parts: &Parts) -> Result<(), Refusal> {
        if let Some(length) = parts.headers.get(CONTENT_LENGTH) {
            let length = length.to_str().ok().and_then(|digits| digits.parse::<u64>().ok());
            let length = length.ok_or(Refusal::HttpMalformed("`Content-Length` is not a number"))?;
            if usize::try_from(length).is_ok_and(|length| length > self.body_bytes_max) {
                return Err(Refusal::BodyTooLarge(self.body_bytes_max));
            }
        }
        if parts.method == Method::POST && !is_json(&parts.headers) {
            return Err(Refusal::ContentTypeUnsupported);
        }
        self.judge_accept(parts)
    }

    /// A POST says that it takes both forms of an answer; the other methods have one form or none.
    fn judge_accept(&self, parts: &Parts) -> Result<(), Refusal> {
        let posts = parts.method == Method::POST;
        let good = match accepted(&parts.headers) {
            Accepted::Both => true,
            Accepted::One => !posts || self.inside.forgives(Tolerance::PartialAccept),
            Accepted::Unsaid => !posts || self.inside.forgives(Tolerance::MissingAccept),
            Accepted::Neither => false,
        };
        if good { Ok(()) } else { Err(Refusal::NotAcceptable) }
    }
}

impl Answer for Door {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer, busy: Busy) -> Response<Reply> {
        let (parts, body) = request.into_parts();
        // Who asks whether to send has not sent.
        let body = body::Sent::new(body, !parts.headers.contains_key(EXPECT));
        let judged = self.judge(&parts, peer.certificate.as_deref());
        // A page learns the answer only where its origin was judged and found good.
        let before_origin =
            matches!(judged, Err(Refusal::HttpMalformed(_) | Refusal::HostNotAllowed | Refusal::OriginNotAllowed));
        let shared = !before_origin && !matches!(judged, Ok(Asked::Page(_)));
        let page = parts.headers.get(ORIGIN).filter(|_| shared).cloned();
        let wants_body = parts.method != Method::HEAD;
        let mut response = match judged {
            Ok(Asked::Call(endpoint)) => {
                let body = body::read(body, self.body_bytes_max, self.body_read);
                // Here and not in a function of its own, which would hold the head a second time.
                match &self.inside {
                    Inside::Gateway(gateway, _) => placed(|| gateway.handle(head(parts, endpoint, peer), body)).await,
                    #[cfg(test)]
                    Inside::Double(double) => double.handle(head(parts, endpoint, peer), body).await,
                }
            }
            Ok(Asked::Document(document)) => json(document),
            Ok(Asked::Facade(route)) => {
                let body = body::read(body, self.body_bytes_max, self.body_read);
                // On the heap: the pages would have room in every call's future.
                let (inside, head) = (&self.inside, head(parts, Endpoint::Federated, peer));
                Box::pin(async move { inside.authorize(route, &head, body).await }).await
            }
            Ok(Asked::Page(step)) => {
                let body = body::read(body, FORM_BYTES_MAX, self.body_read);
                Box::pin(self.inside.visit(head(parts, Endpoint::Federated, peer), step, body)).await
            }
            Ok(Asked::Options(methods)) => options(&parts, methods, page.is_some()),
            Err(refusal) => {
                let endpoint = endpoint(parts.uri.path()).unwrap_or(Endpoint::Federated);
                self.inside.refuse(head(parts, endpoint, peer), refusal)
            }
        };
        if let Some(page) = page {
            cors::share(&mut response.headers, page);
        }
        written(response, wants_body, busy)
    }

    fn refuse(&self, refusal: Refusal, peer: SocketAddr) -> Option<lifecycle::Response> {
        // Nothing is known of it: not the path, and not who asks.
        let head = Head {
            endpoint: Endpoint::Federated,
            slashed: false,
            method: Method::GET,
            query: None,
            headers: HeaderMap::new(),
            peer,
            certificate: None,
        };
        let mut response = self.inside.refuse(head, refusal);
        finish(&mut response);
        Some(response)
    }
}

impl Inside {
    /// The gateway, where it is one.
    pub(super) fn gateway(&self) -> Option<Arc<Gateway>> {
        match self {
            Self::Gateway(gateway, _) => Some(Arc::clone(gateway)),
            #[cfg(test)]
            Self::Double(_) => None,
        }
    }

    async fn visit(
        &self,
        head: Head,
        step: Step,
        body: impl Future<Output = Result<Bytes, Refusal>> + Send,
    ) -> lifecycle::Response {
        match self {
            Self::Gateway(gateway, _) => gateway.visit(head, step, body).await,
            #[cfg(test)]
            Self::Double(double) => double.handle(head, body).await,
        }
    }

    fn forgives(&self, habit: Tolerance) -> bool {
        match self {
            Self::Gateway(gateway, _) => gateway.estate().forgives(habit),
            #[cfg(test)]
            Self::Double(_) => true,
        }
    }

    fn refuse(&self, head: Head, refusal: Refusal) -> lifecycle::Response {
        match self {
            Self::Gateway(gateway, _) => gateway.refuse(&head, &refusal),
            #[cfg(test)]
            Self::Double(double) => double.refuse(head, refusal),
        }
    }

    fn serves(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Gateway(gateway, _) => gateway.estate().audiences(endpoint).is_some(),
            #[cfg(test)]
            Self::Double(_) => !matches!(endpoint, Endpoint::Upstream(id) if id.as_str() == "absent"),
        }
    }

    /// What the facade has at `path`; nothing where there is no facade.
    fn facade(&self, path: &str) -> Option<Route> {
        match self {
            Self::Gateway(_, facade) => Route::of(path).filter(|_| facade.is_on()),
            #[cfg(test)]
            Self::Double(_) => None,
        }
    }

    async fn authorize(
        &self,
        route: Route,
        head: &Head,
        body: impl Future<Output = Result<Bytes, Refusal>> + Send,
    ) -> lifecycle::Response {
        match self {
            Self::Gateway(_, facade) => facade.answer(route, head, body).await,
            #[cfg(test)]
            Self::Double(double) => double.refuse(head.clone(), Refusal::RouteUnknown),
        }
    }
}

fn head(parts: Parts, endpoint: Endpoint, peer: Peer) -> Head {
    let query = parts.uri.query().map(Box::from);
    let slashed = parts.uri.path().ends_with('/');
    let Peer { address, certificate } = peer;
    Head { endpoint, slashed, method: parts.method, query, headers: parts.headers, peer: address, certificate }
}

/// A page answers a browser that looks, and one that sends a form.
fn page(step: Step, parts: &Parts) -> Result<Asked, Refusal> {
    let methods = step.methods();
    if !methods.split(", ").any(|method| method == parts.method.as_str()) {
        return Err(Refusal::MethodNotAllowed(methods));
    }
    let form =
        || parts.headers.get(CONTENT_TYPE).is_some_and(|kind| essence(kind.as_bytes()).eq_ignore_ascii_case(FORM));
    if parts.method == Method::POST && !form() {
        return Err(Refusal::ContentTypeUnsupported);
    }
    Ok(Asked::Page(step))
}

/// Refuses what another reader in front of us may have understood in another way, and what we do not speak.
fn unambiguous(parts: &Parts) -> Result<(), Refusal> {
    if !matches!(parts.version, Version::HTTP_11 | Version::HTTP_2) {
        return Err(Refusal::HttpMalformed("send HTTP/1.1 or HTTP/2"));
    }
    if parts.method == Method::CONNECT {
        return Err(Refusal::HttpMalformed("`CONNECT` is for proxies"));
    }
    // An offer of HTTP/2 in clear is ignored, as RFC 9110 §7.8 allows: Java's client makes one on every connection.
    if parts.headers.get_all(UPGRADE).iter().any(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")) {
        return Err(Refusal::HttpMalformed("no protocol to upgrade to"));
    }
    // hyper wants `chunked` last and closes after a request with both lengths; anything before `chunked` it would pass on.
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let coded = codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if coded || codings.next().is_some() {
        return Err(Refusal::HttpMalformed("`chunked` is the one transfer coding"));
    }
    let target_bytes = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target_bytes > TARGET_BYTES_MAX {
        return Err(Refusal::HttpMalformed("the request target is too long"));
    }
    Ok(())
}

/// The endpoint of a path, compared byte for byte: nothing is decoded, collapsed or lower-cased, so no two readers can
/// see two paths. One slash may stand at the end; whether it is forgiven, `route` says.
fn endpoint(path: &str) -> Option<Endpoint> {
    let rest = path.strip_prefix("/mcp")?;
    if rest.is_empty() || rest == "/" {
        return Some(Endpoint::Federated);
    }
    let id = rest.strip_prefix('/')?;
    // Whether there is such an upstream, `lifecycle` says, and to everybody: its metadata are there for everybody, too.
    UpstreamId::parse(id.strip_suffix('/').unwrap_or(id)).map(Endpoint::Upstream)
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (first, second) = (types.next(), types.next());
    second.is_none() && first.is_some_and(|value| essence(value.as_bytes()).eq_ignore_ascii_case(b"application/json"))
}

/// Which of the two forms of an answer a client says that it takes.
#[derive(Debug, PartialEq, Eq)]
enum Accepted {
    Both,
    One,
    Neither,
    Unsaid,
}

fn accepted(headers: &HeaderMap) -> Accepted {
    let ranges = headers.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let (mut said, mut json, mut events) = (false, false, false);
    for range in ranges.map(essence).filter(|range| !range.is_empty()) {
        let is_one_of = |known: [&str; 3]| known.iter().any(|known| range.eq_ignore_ascii_case(known.as_bytes()));
        said = true;
        json |= is_one_of(["application/json", "application/*", "*/*"]);
        events |= is_one_of(["text/event-stream", "text/*", "*/*"]);
    }
    match (said, json, events) {
        (false, ..) => Accepted::Unsaid,
        (true, true, true) => Accepted::Both,
        (true, false, false) => Accepted::Neither,
        (true, ..) => Accepted::One,
    }
}

/// A media type or range without its parameters.
fn essence(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or(value).trim_ascii()
}

fn json(document: Bytes) -> lifecycle::Response {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    lifecycle::Response { status: 200, headers, body: Body::Whole(document) }
}

fn options(parts: &Parts, methods: &'static str, from_page: bool) -> lifecycle::Response {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(ALLOW, HeaderValue::from_static(methods));
    if from_page && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        cors::preflight(&parts.headers, &mut headers, methods);
    }
    lifecycle::Response { status: 204, headers, body: Body::Empty }
}

/// What every answer has in its head; `unread` tells ours by it.
fn finish(response: &mut lifecycle::Response) {
    // RI-07: nothing that is said here is for a cache.
    response.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The answer as it goes out. `wants_body` is false for `HEAD`, which gets all headers of the body and not the body.
pub(super) fn written(response: lifecycle::Response, wants_body: bool, busy: Busy) -> Response<Reply> {
    let mut response = response;
    finish(&mut response);
    let lifecycle::Response { status, mut headers, mut body } = response;
    if let Body::Stream(_) = body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        // RS-08: nginx and its like would hold events back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    if !wants_body {
        match &body {
            Body::Whole(bytes) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()))),
            Body::Led(own, shared) => {
                let length = own.len().saturating_add(shared.len());
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Body::Empty | Body::Stream(_) => {}
        }
        body = Body::Empty;
    }
    let mut written = Response::new(Reply::new(body, Some(busy)));
    // A status that is none can only be a slip of ours.
    *written.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    *written.headers_mut() = headers;
    written
}

/// What an endpoint and a document answer, as `Allow` lists it.
const CALL_METHODS: &str = "POST, GET, DELETE, OPTIONS";
const DOCUMENT_METHODS: &str = "GET, HEAD, OPTIONS";
/// What a browser sends by a form of ours, and the bytes of it.
const FORM: &[u8] = b"application/x-www-form-urlencoded";
const FORM_BYTES_MAX: usize = 8 * 1024;
/// Far beyond any path of ours and a generous query.
const TARGET_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Door {
        let documents = [("/.well-known/oauth-protected-resource/mcp".to_owned(), Bytes::from("{}"))];
        let metadata = Arc::new(ArcSwap::from_pointee(HashMap::from(documents)));
        let config = super::super::tests::config(|_| {});
        Door::new(Inside::Double(super::super::tests::Double::default()), &config, metadata)
    }

    fn check(method: &str, target: &str, headers: &[(&'static str, &str)]) -> Result<Asked, Refusal> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        door().judge(&request.body(()).unwrap().into_parts().0, None)
    }

    const HOST_OK: (&str, &str) = ("host", "mcp.example.com");
    const TOKEN: (&str, &str) = ("authorization", "Bearer x");
    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

    #[test]
    fn a_path_is_an_endpoint_by_its_exact_bytes() {
        let crm = || Endpoint::Upstream(UpstreamId::parse("crm").unwrap());
        for (path, expected) in [
            ("/mcp", Some(Endpoint::Federated)),
            ("/mcp/", Some(Endpoint::Federated)),
            ("/mcp/crm", Some(crm())),
            ("/mcp/crm/", Some(crm())),
            ("/", None),
            ("", None),
            ("*", None),
            ("/MCP", None),
            ("/mcpx", None),
            ("//mcp", None),
            ("/mcp//", None),
            ("/mcp//crm", None),
            ("/mcp/crm//", None),
            ("/mcp/crm/x", None),
            ("/mcp/CRM", None),
            ("/mcp/%63rm", None),
            ("/mcp/../mcp", None),
            ("/mcp/.", None),
            ("/mcp;x", None),
            ("/%6dcp", None),
        ] {
            assert_eq!(endpoint(path), expected, "{path}");
        }
    }

    #[test]
    fn a_head_is_judged_in_order() {
        let page = ("origin", "https://claude.ai");
        let options = ("access-control-request-method", "POST");
        assert_eq!(check("POST", "/mcp", &[HOST_OK, JSON, page]), Ok(Asked::Call(Endpoint::Federated)));
        assert_eq!(check("GET", "/mcp?x=1", &[HOST_OK]), Ok(Asked::Call(Endpoint::Federated)));
        assert_eq!(check("OPTIONS", "/mcp", &[HOST_OK, page, options]), Ok(Asked::Options(CALL_METHODS)));
        for (method, target, headers, refusal) in [
            ("POST", "/nowhere", &[("host", "evil.example"), ("origin", "null")][..], Refusal::HostNotAllowed),
            ("POST", "/nowhere", &[HOST_OK, ("origin", "null")], Refusal::OriginNotAllowed),
            ("POST", "/mcp", &[HOST_OK, JSON, page, ("origin", "null")], Refusal::OriginNotAllowed),
            ("POST", "/mcp", &[JSON], Refusal::HostNotAllowed),
            ("POST", "/mcp", &[HOST_OK, HOST_OK, JSON], Refusal::HostNotAllowed),
            ("POST", "http://evil.example/mcp", &[HOST_OK, JSON], Refusal::HostNotAllowed),
            ("POST", "/nowhere", &[HOST_OK], Refusal::RouteUnknown),
            ("PUT", "/mcp", &[HOST_OK], Refusal::TokenMissing),
            ("PUT", "/mcp", &[HOST_OK, TOKEN], Refusal::MethodNotAllowed(CALL_METHODS)),
            ("HEAD", "/mcp", &[HOST_OK], Refusal::TokenMissing),
            ("HEAD", "/mcp", &[HOST_OK, TOKEN], Refusal::MethodNotAllowed(CALL_METHODS)),
            ("PUT", "/mcp/absent", &[HOST_OK], Refusal::RouteUnknown),
            ("PUT", "/mcp/absent", &[HOST_OK, TOKEN], Refusal::RouteUnknown),
            ("HEAD", "/mcp/absent", &[HOST_OK], Refusal::RouteUnknown),
            ("POST", "/mcp/absent", &[HOST_OK, TOKEN], Refusal::RouteUnknown),
            ("POST", "/mcp", &[HOST_OK], Refusal::TokenMissing),
            ("POST", "/mcp", &[HOST_OK, TOKEN], Refusal::ContentTypeUnsupported),
            ("POST", "/mcp", &[HOST_OK, TOKEN, ("content-type", "text/plain")], Refusal::ContentTypeUnsupported),
            ("POST", "/mcp", &[HOST_OK, TOKEN, JSON, JSON], Refusal::ContentTypeUnsupported),
            ("POST", "/mcp", &[HOST_OK, JSON, ("accept", "image/png, text/html;q=1")], Refusal::TokenMissing),
            ("POST", "/mcp", &[HOST_OK, TOKEN, JSON, ("accept", "image/png, text/html;q=1")], Refusal::NotAcceptable),
            ("POST", "/mcp", &[HOST_OK, JSON, ("content-length", "1025")], Refusal::BodyTooLarge(1024)),
            (
                "POST",
                "/.well-known/oauth-protected-resource/mcp",
                &[HOST_OK],
                Refusal::MethodNotAllowed(DOCUMENT_METHODS),
            ),
        ] {
            assert_eq!(check(method, target, headers), Err(refusal), "{method} {target} {headers:?}");
        }
        assert_eq!(check("POST", "http://MCP.example.com/mcp", &[HOST_OK, JSON]), Ok(Asked::Call(Endpoint::Federated)));
    }

    #[test]
    fn a_page_takes_forms_of_its_own_origin_only() {
        let form = ("content-type", "application/x-www-form-urlencoded");
        let step = || Asked::Page(Step::of("/connect/crm").unwrap());
        let own = ("origin", "https://mcp.example.com");
        assert_eq!(check("GET", "/connect/crm?ticket=x", &[HOST_OK]), Ok(step()));
        assert_eq!(check("POST", "/connect/crm", &[HOST_OK, form, own]), Ok(step()));
        for (method, target, headers, refusal) in [
            ("POST", "/connect/crm", &[HOST_OK, form, ("origin", "https://claude.ai")][..], Refusal::OriginNotAllowed),
            ("POST", "/connect/crm", &[HOST_OK, form, ("origin", "null")], Refusal::OriginNotAllowed),
            ("POST", "/connect/crm", &[HOST_OK, JSON, own], Refusal::ContentTypeUnsupported),
            ("GET", "/connecting/confirm", &[HOST_OK], Refusal::MethodNotAllowed("POST")),
            ("POST", "/connecting/callback/crm", &[HOST_OK, form], Refusal::MethodNotAllowed("GET")),
            ("POST", "/mcp", &[HOST_OK, JSON, own], Refusal::OriginNotAllowed),
        ] {
            assert_eq!(check(method, target, headers), Err(refusal), "{method} {target} {headers:?}");
        }
    }

    #[test]
    fn http_with_a_second_reading_is_refused() {
        for headers in [
            &[HOST_OK, JSON, ("transfer-encoding", "gzip, chunked")][..],
            &[HOST_OK, JSON, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[HOST_OK, JSON, ("transfer-encoding", "chunked, chunked")],
            &[HOST_OK, JSON, ("upgrade", "websocket")],
        ] {
            assert!(matches!(check("POST", "/mcp", headers), Err(Refusal::HttpMalformed(_))), "{headers:?}");
        }
        let long = format!("/mcp?{}", "x".repeat(TARGET_BYTES_MAX));
        assert!(matches!(check("GET", &long, &[HOST_OK]), Err(Refusal::HttpMalformed(_))));
        let fine = [HOST_OK, JSON, ("transfer-encoding", "Chunked"), ("upgrade", "h2c")];
        assert!(check("POST", "/mcp", &fine).is_ok());
    }

    #[test]
    fn accept_says_one_form_or_both_or_nothing() {
        for (accept, expect) in [
            (vec!["*/*"], Accepted::Both),
            (vec!["TEXT/event-stream, application/*;q=0.1"], Accepted::Both),
            (vec!["application/json", "text/event-stream"], Accepted::Both),
            (vec!["application/json"], Accepted::One),
            (vec!["text/html, text/*"], Accepted::One),
            (vec!["text/html, image/*"], Accepted::Neither),
            (vec!["application/jsonp"], Accepted::Neither),
            (vec![""], Accepted::Unsaid),
            (vec![" , "], Accepted::Unsaid),
            (vec![], Accepted::Unsaid),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(accept.iter().map(|value| (ACCEPT, HeaderValue::from_static(value))));
            assert_eq!(accepted(&headers), expect, "{accept:?}");
        }
    }

    #[test]
    fn a_document_is_found_by_its_exact_path() {
        let path = "/.well-known/oauth-protected-resource/mcp";
        assert_eq!(check("GET", path, &[HOST_OK]), Ok(Asked::Document(Bytes::from("{}"))));
        for other in [format!("{path}/"), format!("{path}/x")] {
            assert_eq!(check("GET", &other, &[HOST_OK]), Err(Refusal::RouteUnknown), "{other}");
        }
    }
}
