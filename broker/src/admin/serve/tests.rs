use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
    task::JoinHandle,
};

use super::*;

/// What is waited for at most; a test that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A time-out that no test waits for.
const LONG: Duration = Duration::from_mins(10);

struct Served {
    address: SocketAddr,
    /// Told when a slow request has arrived.
    arrived: Arc<Notify>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn start(connections_max: usize, connection_timeout: Duration) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let arrived = Arc::new(Notify::new());
    let slow = Arc::clone(&arrived);
    let slow = async move || {
        slow.notify_one();
        tokio::time::sleep(Duration::from_millis(200)).await;
        "slow, but there\n"
    };
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/slow", get(slow));
    let bounds = Bounds {
        connections_max,
        connection_timeout,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(listener, routes, bounds, stop.clone()));
    Served {
        address,
        arrived,
        stop,
        task,
    }
}

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes until the connection is closed, by a reset for one.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text))
        .await
        .expect("the connection is closed in time");
    String::from_utf8(text).unwrap()
}

async fn ask(address: SocketAddr, path: &str) -> String {
    rest(
        send(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n"),
        )
        .await,
    )
    .await
}

#[tokio::test]
async fn a_connection_is_closed_after_its_answer() {
    let served = start(4, LONG).await;
    let answer = ask(served.address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[tokio::test]
async fn requests_that_never_end_are_closed_when_their_time_is_up() {
    let timeout = Duration::from_millis(300);
    let served = start(64, timeout).await;
    let began = Instant::now();
    let mut open = vec![TcpStream::connect(served.address).await.unwrap()];
    for _ in 0..20 {
        open.push(send(served.address, "GET /healthz HTTP/1.1\r\nHost: he").await);
    }
    assert!(ask(served.address, "/healthz").await.contains("200 OK"));
    for stream in open {
        assert_eq!(rest(stream).await, "");
    }
    assert!(began.elapsed() >= timeout);
}

#[tokio::test]
async fn a_trickle_of_bytes_buys_no_time() {
    let served = start(4, Duration::from_millis(300)).await;
    let mut stream = send(served.address, "GET /healthz HTTP/1.1\r\n").await;
    let began = Instant::now();
    while stream.write_all(b"X: y\r\n").await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "it is still open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn health_is_told_while_others_hold_more_connections_than_there_may_be() {
    const CONNECTIONS_MAX: usize = 16;
    let served = start(CONNECTIONS_MAX, LONG).await;
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(send(served.address, "GET /healthz HTTP/1.1\r\nHost: he").await);
    }
    let answer = ask(served.address, "/healthz").await;
    assert!(answer.contains("200 OK"), "{answer}");
    // The oldest gave way: to the later ones, and one of the last to who asked for health.
    let kept = open.split_off(open.len() + 1 - CONNECTIONS_MAX);
    for stream in open {
        assert_eq!(rest(stream).await, "");
    }
    for mut stream in kept {
        stream.write_all(b"re\r\n\r\n").await.unwrap();
        assert!(rest(stream).await.contains("200 OK"));
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let served = start(4, LONG).await;
    let mut stream = send(served.address, "GET /healthz HTTP/1.1\r\nX: ").await;
    // The server may well close before it has taken all.
    let _ = stream.write_all(&vec![b'x'; 4 * HEAD_BYTES_MAX]).await;
    assert!(!rest(stream).await.contains("200 OK"));
}

#[tokio::test]
async fn a_stop_finishes_requests_and_waits_for_nobody_who_sends_none() {
    let served = start(8, LONG).await;
    let idle = TcpStream::connect(served.address).await.unwrap();
    let slow = tokio::spawn(ask(served.address, "/slow"));
    served.arrived.notified().await;
    served.stop.cancel();
    let began = Instant::now();
    served.task.await.unwrap();
    assert!(began.elapsed() < STOP_TIMEOUT, "{:?}", began.elapsed());
    assert!(slow.await.unwrap().ends_with("slow, but there\n"));
    assert_eq!(rest(idle).await, "");
}

#[tokio::test]
async fn a_stop_cuts_off_a_request_that_never_ends() {
    let served = start(8, LONG).await;
    let half = send(served.address, "GET /healthz HTTP/1.1\r\n").await;
    assert!(ask(served.address, "/healthz").await.contains("200 OK"));
    served.stop.cancel();
    tokio::time::timeout(PATIENCE, served.task)
        .await
        .expect("the stop does not wait for it")
        .unwrap();
    assert_eq!(rest(half).await, "");
}
