//! Requests with payloads, and the memory that they take.

use flumen_protocol::{
    error::{ErrorCode, WireError},
    message::StreamOpen,
};
use flumen_transport::stream::Payload;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{client::open_with, *};
use crate::{
    config::ByteSize,
    peer::{PeerHandler, PeerMessage, PeerService, PeerStream, encode},
};

/// What one connection may have under way, and as large is each payload.
const BYTES: u64 = 64 * 1024;

/// So many requests without a payload are answered meanwhile. A payload that is taken with them would
/// long be passed on.
const OTHERS: usize = 50;

/// Answers what is passed on to it only when it may.
struct Slow {
    taken: Semaphore,
    may_answer: Arc<Semaphore>,
}

impl Slow {
    fn new() -> Self {
        Self {
            taken: Semaphore::new(0),
            may_answer: Arc::new(Semaphore::new(0)),
        }
    }

    async fn until_taken(&self) {
        let taken = timeout(LONG, self.taken.acquire());
        taken.await.unwrap().unwrap().forget();
    }
}

impl PeerHandler for Slow {
    fn call(&self, _: BrokerId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("this one knows nothing".to_owned()) })
    }

    fn stream(&self, _: BrokerId, _: Bytes, mut stream: PeerStream) -> BoxFuture<'static, ()> {
        self.taken.add_permits(1);
        let may_answer = Arc::clone(&self.may_answer);
        Box::pin(async move {
            stream.receiver.next().await.unwrap();
            may_answer.acquire().await.unwrap().forget();
            let error = WireError::new(ErrorCode::InvalidPlugin, "it is none");
            let head = encode(&Reply::Err(error));
            let parts = Vec::new();
            let sent = stream.sender.send(PeerMessage { head, parts }).await;
            sent.unwrap();
            stream.sender.finish();
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "in one run of three the first payload is not passed on to the other broker"]
async fn a_payload_counts_until_its_request_is_answered() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let founder = Broker::bootstrap(config(one.path())).await.unwrap();
    let mut narrow = config(two.path());
    narrow.limits.inflight_bytes_per_connection_max = ByteSize::new(BYTES);
    let joined = join_with(&founder, narrow).await;
    eventually("it is known who leads the catalog", || {
        let leader = joined.node().shards.leader_of(CATALOG_SHARD);
        leader == Some(founder.node().status().id)
    })
    .await;
    let slow = Arc::new(Slow::new());
    let peers = &founder.node().peers;
    peers.serve(PeerService::Control, Arc::<Slow>::clone(&slow));
    let connection = client::connect(&joined).await;
    let component = vec![0; BYTES as usize].into();
    let deploy = |name: &str| {
        let request = StreamOpen::Control(Request::DeployPlugin {
            name: name.parse().unwrap(),
            version: None,
        });
        open_with(&connection, request, Payload::Bytes(&component))
    };

    let first = deploy("first").await;
    slow.until_taken().await;
    let second = deploy("second").await;
    for _ in 0..OTHERS {
        let status = StreamOpen::Control(Request::Status);
        let (_writer, mut reader) = client::open(&connection, status).await;
        let answered = timeout(LONG, reader.next::<Reply>()).await;
        let (reply, _) = answered.unwrap().unwrap().unwrap();
        assert!(matches!(reply, Ok(Response::Status(_))), "{reply:?}");
        let taken = slow.taken.available_permits();
        assert_eq!(taken, 0, "a payload is taken for which there is no room");
    }
    slow.may_answer.add_permits(1);
    for (_writer, mut reader) in [first, second] {
        let answered = timeout(LONG, reader.next::<Reply>()).await;
        let (reply, _) = answered.unwrap().unwrap().unwrap();
        assert_eq!(reply.unwrap_err().code, ErrorCode::InvalidPlugin);
        slow.may_answer.add_permits(1);
    }
    slow.until_taken().await;
    drop(connection);
    for broker in [joined, founder] {
        broker.stop().await;
    }
}
