//! Does a client dial only what it may?

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{config::Net, tasks};

/// What comes at all comes by then, on a busy machine too.
const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(10), bytes_max: 1_000 };

/// For what never comes whole.
const SHORT: Bounds = Bounds { deadline: Duration::from_millis(1_500), ..BOUNDS };

/// A server that answers every connection with the same bytes, and counts them.
struct Server {
    port: u16,
    seen: Arc<AtomicUsize>,
}

impl Server {
    async fn answering(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let (counted, answer) = (Arc::clone(&seen), answer.to_owned());
        tasks::background(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::AcqRel);
                let answer = answer.clone();
                tasks::background(async move {
                    let mut head = [0; 1_024];
                    drop(stream.read(&mut head).await);
                    drop(stream.write_all(answer.as_bytes()).await);
                    // Whoever waits for the rest waits in vain.
                    drop(stream.read(&mut head).await);
                });
            }
        });
        Self { port, seen }
    }

    fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::Acquire)
    }
}

fn egress(origins: &[&str]) -> config::Egress {
    config::Egress { origins: origins.iter().map(|origin| origin.parse().unwrap()).collect(), ..Default::default() }
}

async fn get(client: &Client, address: &str) -> Result<Response<Bytes>, EgressError> {
    get_within(BOUNDS, client, address).await
}

async fn get_within(bounds: Bounds, client: &Client, address: &str) -> Result<Response<Bytes>, EgressError> {
    client.fetch(Request::get(address).body(Bytes::new()).unwrap(), bounds).await
}

/// Names lead where the test says, one answer a look-up.
fn with_names(client: &Client, name: &str, answers: &[&[&str]]) {
    let Reach::Outside(outside) = &client.reach else { panic!("not a client for what others name") };
    let read = |addresses: &&[&str]| addresses.iter().map(|it| it.parse::<IpAddr>().unwrap()).collect::<Vec<_>>();
    let answers: Vec<_> = answers.iter().map(read).collect();
    outside.names.lock().insert(name.to_owned(), answers.into_iter());
}

fn is_forbidden<T>(answer: &Result<T, EgressError>) -> bool {
    matches!(answer, Err(EgressError::Forbidden(_)))
}

#[tokio::test]
async fn what_others_name_leads_nowhere_inside() {
    for address in [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://[fd00:ec2::254]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://localhost/",
        "https://LOCALHOST/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "http://example.com/",
        "https://example.com:8443/",
        "https://user:secret@example.com/",
        "http://127.0.0.1:80/",
    ] {
        let client = Client::outside(&egress(&[])).unwrap();
        let answer = get(&client, address).await;
        assert!(is_forbidden(&answer), "{address}: {answer:?}");
    }
}

#[tokio::test]
async fn a_name_is_judged_by_the_address_that_is_dialled() {
    for trap in [&["169.254.169.254"][..], &["8.8.8.8", "10.0.0.1"], &["::ffff:127.0.0.1"], &["fe80::1"], &["0.0.0.0"]]
    {
        let client = Client::outside(&egress(&[])).unwrap();
        with_names(&client, "rebind.example", &[trap]);
        let answer = get(&client, "https://rebind.example/").await;
        assert!(is_forbidden(&answer), "{trap:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_name_that_moves_in_between_leads_nowhere() {
    // The first look-up lets it in, at an address where nothing answers; the second would lead inside.
    let client = Client::outside(&config::Egress { nets: vec![Net::parse("127.0.0.2/32").unwrap()], ..egress(&[]) });
    let client = client.unwrap();
    with_names(&client, "rebind.example", &[&["127.0.0.2"], &["127.0.0.1"]]);
    assert!(matches!(get(&client, "https://rebind.example/a").await, Err(EgressError::Unreachable(_))));
    let Reach::Outside(outside) = &client.reach else { panic!("not a client for what others name") };
    assert_eq!(outside.names.lock().get("rebind.example").unwrap().len(), 1, "one look-up a connection");
    outside.forget();
    assert!(is_forbidden(&get(&client, "https://rebind.example/a").await));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_nobody_follows_it() {
    let inside = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let location = format!("HTTP/1.1 302 Found\r\nlocation: {}/\r\ncontent-length: 0\r\n\r\n", inside.origin());
    let outside = Server::answering(&location).await;
    let client = Client::outside(&egress(&[&outside.origin()])).unwrap();
    assert_eq!(get(&client, &outside.origin()).await.unwrap().status(), StatusCode::FOUND);
    assert_eq!((outside.seen(), inside.seen()), (1, 0));
    assert!(is_forbidden(&get(&client, &inside.origin()).await), "the other port of a host that is excepted");
    assert_eq!(inside.seen(), 0);
}

#[tokio::test]
async fn what_is_huge_or_slow_ends_at_its_bounds_and_is_not_asked_again_at_once() {
    let huge =
        Server::answering(&format!("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{}", "x".repeat(5_000))).await;
    let slow = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx").await;
    let client = Client::outside(&egress(&[&huge.origin(), &slow.origin()])).unwrap();
    for _ in 0..3 {
        assert_eq!(get(&client, &huge.origin()).await.unwrap_err(), EgressError::TooLarge(BOUNDS.bytes_max));
        assert_eq!(get_within(SHORT, &client, &slow.origin()).await.unwrap_err(), EgressError::Timeout);
    }
    assert_eq!((huge.seen(), slow.seen()), (1, 1));
}

#[tokio::test]
async fn one_host_gets_so_many_requests_at_once_and_the_next_one_none() {
    let slow = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx").await;
    let quick = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let client = Client::outside(&egress(&[&slow.origin(), &quick.origin()])).unwrap();
    let waiting = (0..20).map(|n| {
        let (client, address) = (client.clone(), format!("{}/{n}", slow.origin()));
        tasks::background(async move { get_within(SHORT, &client, &address).await })
    });
    let mut answers = Vec::new();
    for answer in waiting.collect::<Vec<_>>() {
        answers.push(answer.await.unwrap());
    }
    let waited = answers.iter().filter(|answer| matches!(answer, Err(EgressError::Timeout))).count();
    assert!(waited > 0 && waited <= config::Egress::default().requests_per_host_max, "{waited}");
    assert_eq!(slow.seen(), waited);
    assert!(get(&client, &quick.origin()).await.is_ok());
    let again = get_within(SHORT, &client, &format!("{}/again", slow.origin())).await;
    assert!(matches!(again, Err(EgressError::Timeout)), "room again");
}

#[tokio::test]
async fn what_the_administrator_named_may_be_anywhere() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let client = Client::new(&Trust::default()).unwrap();
    assert!(get(&client, &server.origin()).await.is_ok());
    assert!(is_forbidden(&get(&client, "http://example.com/").await), "plain HTTP to another machine");
    let credential = format!("http://user:secret@127.0.0.1:{}", server.port);
    assert!(is_forbidden(&get(&client, &credential).await), "a credential in the address");
}
