//! Brokers that are nothing but their network.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flumen_protocol::{ALPN_CLIENT, ALPN_PEER, ids::BrokerId};
use flumen_transport::{
    endpoint,
    quinn::{Connection, Endpoint, ServerConfig},
    tls, tuning,
};
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};

use super::{
    super::{CALL_BYTES_MAX, PeerHandler, PeerMessage, PeerService, PeerStream, Peers},
    ONE, TWO,
};
use crate::identity::PeerCredentials;

/// Signs the certificates of a cluster.
pub(super) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::from_ca_cert_pem(&pem, key).unwrap();
        Self { pem, issuer }
    }

    /// A broker's certificate.
    pub(super) fn of_broker(&self, broker: BrokerId) -> PeerCredentials {
        self.naming(&[&format!("flumen://broker/{broker}")])
    }

    /// A certificate with these URIs.
    pub(super) fn naming(&self, uris: &[&str]) -> PeerCredentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        for uri in uris {
            let uri = SanType::URI((*uri).try_into().unwrap());
            params.subject_alt_names.push(uri);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        PeerCredentials {
            authority: self.pem.clone(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Answers calls with what they say, and streams with what they bring; one that is opened with
/// `stall` it does not read.
#[derive(Default)]
pub(super) struct Room {
    pub(super) streams_broken: Arc<AtomicUsize>,
}

impl PeerHandler for Room {
    fn call(&self, _from: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        async move {
            match &request[..] {
                b"refuse" => Err("as was asked".to_owned()),
                b"sleep" => std::future::pending().await,
                b"panic" => panic!("as was asked"),
                b"long reply" => Ok(vec![0; CALL_BYTES_MAX + 1].into()),
                _ => Ok(request),
            }
        }
        .boxed()
    }

    fn stream(
        &self,
        _from: BrokerId,
        head: Bytes,
        mut stream: PeerStream,
    ) -> BoxFuture<'static, ()> {
        let broken = Arc::clone(&self.streams_broken);
        async move {
            if head == "stall" {
                return std::future::pending().await;
            }
            let mut next = Some(PeerMessage {
                head,
                parts: Vec::new(),
            });
            while let Some(message) = next {
                if stream.sender.send(message).await.is_err() {
                    return;
                }
                next = match stream.receiver.next().await {
                    Ok(next) => next,
                    Err(_) => {
                        broken.fetch_add(1, Ordering::Release);
                        return;
                    }
                };
            }
            stream.sender.finish();
        }
        .boxed()
    }
}

pub(super) fn message(head: &'static [u8], parts: Vec<Bytes>) -> PeerMessage {
    PeerMessage {
        head: Bytes::from_static(head),
        parts,
    }
}

/// A broker that is nothing but its network.
pub(super) struct TestBroker {
    pub(super) id: BrokerId,
    pub(super) peers: Peers,
    pub(super) address: SocketAddr,
    pub(super) room: Room,
    pub(super) authority_pem: String,
    accepted: Arc<Mutex<Vec<Connection>>>,
}

impl TestBroker {
    pub(super) fn start(authority: &Authority, id: BrokerId) -> Self {
        Self::start_at(
            authority,
            id,
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
        )
    }

    pub(super) fn start_at(authority: &Authority, id: BrokerId, address: SocketAddr) -> Self {
        Self::start_with(authority.of_broker(id), id, address)
    }

    pub(super) fn start_with(
        credentials: PeerCredentials,
        id: BrokerId,
        address: SocketAddr,
    ) -> Self {
        Self::start_speaking(credentials, id, address, &[ALPN_CLIENT, ALPN_PEER])
    }

    /// A broker that speaks other protocols than ours when it is called.
    pub(super) fn start_speaking(
        credentials: PeerCredentials,
        id: BrokerId,
        address: SocketAddr,
        alpns: &[&[u8]],
    ) -> Self {
        let endpoint = endpoint_of(&credentials, id, address, alpns);
        let authority_pem = credentials.authority.clone();
        let peers = Peers::new(id, endpoint.clone(), credentials);
        let accepted = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(accept(
            endpoint.clone(),
            peers.clone(),
            Arc::clone(&accepted),
        ));
        Self {
            id,
            peers,
            address: endpoint.local_addr().unwrap(),
            room: Room::default(),
            authority_pem,
            accepted,
        }
    }

    pub(super) fn serve(&self, room: Room) {
        let room: Arc<dyn PeerHandler> = Arc::new(room);
        for service in [PeerService::Raft, PeerService::Records] {
            self.peers.serve(service, Arc::clone(&room));
        }
    }

    /// Makes both brokers members of one cluster.
    pub(super) fn meet(&self, other: &Self) {
        let members = vec![self.member(), other.member()];
        self.peers.set_members(members.clone());
        other.peers.set_members(members);
    }

    pub(super) fn member(&self) -> (BrokerId, String) {
        (self.id, self.address.to_string())
    }

    /// Waits until others have made so many connections, and all but the first of them are over.
    pub(super) async fn until_only_the_first_is_left(&self, count: usize) {
        loop {
            let accepted = self.accepted.lock().clone();
            if accepted.len() == count {
                for connection in &accepted[1..] {
                    connection.closed().await;
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Packets that came over connections that others have made.
    pub(super) fn packets_received(&self) -> u64 {
        let accepted = self.accepted.lock();
        let received = accepted.iter().map(|connection| connection.stats().udp_rx);
        received.map(|udp| udp.datagrams).sum()
    }
}

/// What a broker is reached at.
pub(super) fn endpoint_of(
    credentials: &PeerCredentials,
    id: BrokerId,
    address: SocketAddr,
    alpns: &[&[u8]],
) -> Endpoint {
    let identity = tls::Identity {
        cert_pem: &credentials.certificate,
        key_pem: &credentials.key,
    };
    let tls = tls::server_config(identity, &credentials.authority, alpns).unwrap();
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(tuning::transport_config(100));
    endpoint::server_with_secret(address, config, &id.0.to_le_bytes()).unwrap()
}

async fn accept(endpoint: Endpoint, peers: Peers, accepted: Arc<Mutex<Vec<Connection>>>) {
    while let Some(incoming) = endpoint.accept().await {
        if let Ok(connection) = incoming.await {
            accepted.lock().push(connection.clone());
            peers.accepted(connection);
        }
    }
}

/// Two brokers of one cluster that serve each other.
pub(super) async fn pair() -> (TestBroker, TestBroker) {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let two = TestBroker::start(&authority, TWO);
    one.meet(&two);
    for broker in [&one, &two] {
        broker.serve(Room {
            streams_broken: Arc::clone(&broker.room.streams_broken),
        });
    }
    (one, two)
}
