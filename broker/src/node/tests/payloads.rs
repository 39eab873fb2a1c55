//! Requests with payloads, and the memory that they take.

use flumen_protocol::{
    error::{ErrorCode, WireError},
    limits::PLUGIN_BYTES_MAX,
    message::StreamOpen,
};
use flumen_transport::stream::Payload;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{client::open_with, *};
use crate::peer::{PeerHandler, PeerMessage, PeerService, PeerStream, encode};

/// So many of the largest payloads may one connection have under way.
const PAYLOADS: usize = 4;

/// How long it is looked whether something happens that must not.
const MOMENT: Duration = Duration::from_millis(300);

/// Answers what is passed on to it only when it may.
struct Slow {
    taken: Semaphore,
    may_answer: Arc<Semaphore>,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            taken: Semaphore::new(0),
            may_answer: Arc::new(Semaphore::new(0)),
        }
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
            let head = encode(&Reply::Err(WireError::new(
                ErrorCode::InvalidPlugin,
                "none",
            )));
            let parts = Vec::new();
            let sent = stream.sender.send(PeerMessage { head, parts }).await;
            sent.unwrap();
            stream.sender.finish();
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_counts_until_its_request_is_answered() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    eventually("it is known who leads the catalog", || {
        let leader = joined.node().shards.leader_of(CATALOG_SHARD);
        leader == Some(founder.node().status().id)
    })
    .await;
    let slow = Arc::new(Slow::default());
    let peers = &founder.node().peers;
    peers.serve(PeerService::Control, Arc::<Slow>::clone(&slow));
    let connection = client::connect(&joined).await;
    let component = Bytes::from(vec![0; PLUGIN_BYTES_MAX]);
    let deploy = |name: usize| {
        let request = StreamOpen::Control(Request::DeployPlugin {
            name: format!("plugin-{name}").parse().unwrap(),
            version: None,
        });
        open_with(&connection, request, Payload::Bytes(&component))
    };
    let mut readers = Vec::new();
    for name in 0..PAYLOADS {
        readers.push(deploy(name).await);
    }
    let taken = slow.taken.acquire_many(PAYLOADS as u32);
    timeout(LONG, taken).await.unwrap().unwrap().forget();
    let mut further = Box::pin(deploy(PAYLOADS));
    let sent = timeout(MOMENT, &mut further).await;
    assert!(
        sent.is_err(),
        "a payload is taken for which there is no room"
    );
    slow.may_answer.add_permits(PAYLOADS + 1);
    readers.push(timeout(LONG, further).await.unwrap());
    for (_, reader) in &mut readers {
        let answered = timeout(LONG, reader.next::<Reply>()).await;
        let (reply, _) = answered.unwrap().unwrap().unwrap();
        assert_eq!(reply.unwrap_err().code, ErrorCode::InvalidPlugin);
    }
    drop(connection);
    for broker in [joined, founder] {
        broker.stop().await;
    }
}
