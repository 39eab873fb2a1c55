//! Brokers that join a real one, up to what their data directories hold afterwards.

use std::{fs, path::Path, time::Duration};

use flumen_protocol::{error::ErrorCode, ids::BrokerId, profile::Profile};
use flumen_transport::endpoint::Udp;

use super::*;
use crate::{
    identity::{Identity, Membership},
    node::Broker,
};

const HOUR: Duration = Duration::from_hours(1);

fn config(dir: &Path) -> BrokerConfig {
    let mut config = BrokerConfig {
        data_dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: None,
        zone: Some("east".parse().unwrap()),
        ..BrokerConfig::default()
    };
    config.shards = crate::config::ShardCount::asked(1);
    config
}

async fn start(dir: &Path) -> Broker {
    Broker::bootstrap(config(dir)).await.unwrap()
}

async fn token(broker: &Broker, ttl: Duration) -> JoinToken {
    let reply = broker.node().create_join_token(ttl.as_millis() as u64);
    match reply.await.unwrap() {
        Response::JoinToken(token) => token.0.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_joins_gets_all_that_a_member_has() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = start(one.path()).await;
    let token = token(&broker, HOUR).await;
    let mut config = config(two.path());
    join(&mut config, &token, &Udp).await.unwrap();
    assert_ne!(config.listen.port(), 0);

    for file in ["tls/ca.pem", "tls/ca.key", "tokens"] {
        assert_eq!(read(two.path(), file), read(one.path(), file), "{file}");
    }
    assert!(!two.path().join("joining.toml").exists());
    let certificate = read(two.path(), "tls/broker.pem");
    let identity = Identity::load_or_create(&config).unwrap();
    assert_eq!(read(two.path(), "tls/broker.pem"), certificate);
    let profile: Profile = toml::from_str(&read(one.path(), "client.toml")).unwrap();
    assert!(identity.accepts_token(&profile.token.unwrap()));
    let Membership::Joined { cluster, members } = identity.membership() else {
        panic!("it has joined");
    };
    assert_eq!(*cluster, token.cluster);
    assert_eq!(members.len(), 2);

    // The catalog knows it, with its address and zone.
    let known = broker.node().brokers();
    let joined = known.get(&identity.broker_id()).unwrap();
    assert_eq!(joined.address, config.listen.to_string());
    assert_eq!(joined.zone.as_deref(), Some("east"));
    drop(identity);

    // Without what says so, it is not taken for one that founds a cluster.
    let cluster_file = two.path().join("cluster.toml");
    let text = fs::read_to_string(&cluster_file).unwrap();
    fs::remove_file(&cluster_file).unwrap();
    for refused in [
        Identity::load_or_create(&config).map(drop),
        Candidate::open(&config, &token).map(drop),
    ] {
        let said = refused.unwrap_err().to_string();
        assert!(said.contains(cluster_file.to_str().unwrap()), "{said}");
    }
    fs::write(&cluster_file, text).unwrap();

    // A container that is started with the same command does not join again.
    let before = read(two.path(), "cluster.toml");
    join(&mut config, &token, &Udp).await.unwrap();
    assert_eq!(read(two.path(), "cluster.toml"), before);
    // But it looks for the others where the token says, as all that it knows may be gone.
    let seeds = config.seed_brokers.clone().unwrap();
    assert_eq!(seeds.with_port(0), token.addresses);
    // And one that has joined cannot make a cluster any more.
    let refused = Broker::bootstrap(config).await.unwrap_err().to_string();
    assert!(refused.contains("--bootstrap"), "{refused}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_cluster_is_refused_by_name_and_the_founder_passes_over_its_own() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let one = start(dirs[0].path()).await;
    let other = start(dirs[1].path()).await;
    let ours = token(&one, HOUR).await;
    let theirs = token(&other, HOUR).await;
    join(&mut config(dirs[2].path()), &ours, &Udp)
        .await
        .unwrap();
    let refused = join(&mut config(dirs[2].path()), &theirs, &Udp).await;
    let refused = refused.unwrap_err().to_string();
    for cluster in [ours.cluster, theirs.cluster] {
        assert!(refused.contains(&format!("{cluster:032x}")), "{refused}");
    }
    one.stop().await;
    join(&mut config(dirs[0].path()), &ours, &Udp)
        .await
        .unwrap();
    let refused = join(&mut config(dirs[0].path()), &theirs, &Udp).await;
    assert!(matches!(
        refused,
        Err(JoinError::Identity(IdentityError::OtherCluster { .. }))
    ));
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_expired_tokens_removed_brokers_and_other_versions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path()).await;
    let right = token(&broker, HOUR).await;
    let enrolment = Enrolment {
        cluster: right.cluster,
        token_id: right.id,
        secret: right.secret,
        broker: BrokerInfo {
            id: BrokerId(7),
            address: "127.0.0.1:1".to_owned(),
            zone: None,
        },
        public_key: Candidate::open(&config(&dir.path().join("new")), &right)
            .unwrap()
            .unwrap()
            .public_key(),
        hosts: vec!["localhost".to_owned()],
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let refusal = async |enrolment: &Enrolment| match super::enrol(&right, enrolment, &Udp).await {
        Err(JoinError::Refused(error)) => error,
        other => panic!("{other:?}"),
    };

    let mut wrong = enrolment.clone();
    wrong.secret[31] ^= 1;
    assert_eq!(refusal(&wrong).await.code, ErrorCode::Unauthenticated);
    let mut wrong = enrolment.clone();
    wrong.token_id ^= 1;
    assert_eq!(refusal(&wrong).await.code, ErrorCode::Unauthenticated);

    let mut wrong = enrolment.clone();
    wrong.cluster ^= 1;
    assert!(refusal(&wrong).await.text.contains("cluster"));
    let mut wrong = enrolment.clone();
    wrong.version = "99.0.0".to_owned();
    assert!(refusal(&wrong).await.text.contains("99.0.0"));
    let mut wrong = enrolment.clone();
    wrong.public_key = vec![1, 2, 3];
    assert_eq!(refusal(&wrong).await.code, ErrorCode::InvalidRequest);
    assert!(!broker.node().brokers().contains_key(&BrokerId(7)));

    super::enrol(&right, &enrolment, &Udp).await.unwrap();
    broker.node().remove_broker(BrokerId(7)).await.unwrap();
    let error = refusal(&enrolment).await;
    assert!(error.text.contains("removed"), "{error}");

    let short = token(&broker, Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut late = enrolment.clone();
    (late.token_id, late.secret) = (short.id, short.secret);
    assert!(refusal(&late).await.text.contains("expired"));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_is_not_sent_to_a_broker_of_another_authority() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let one = start(dirs[0].path()).await;
    let other = start(dirs[1].path()).await;
    let mut token = token(&one, HOUR).await;
    token.addresses = vec![other.local_addr().to_string()];
    let candidate = Candidate::open(&config(dirs[2].path()), &token).unwrap();
    let candidate = candidate.unwrap();
    let enrolment = Enrolment {
        cluster: token.cluster,
        token_id: token.id,
        secret: token.secret,
        broker: BrokerInfo {
            id: candidate.broker(),
            address: "127.0.0.1:1".to_owned(),
            zone: None,
        },
        public_key: candidate.public_key(),
        hosts: Vec::new(),
        version: String::new(),
    };
    let address = &token.addresses[0];
    match ask(&token, address, 0, &enrolment, &Udp).await {
        // The handshake fails; no refusal of a request comes back.
        Err(Failed::ForNow(reason)) => assert!(reason.contains("certificate"), "{reason}"),
        _ => panic!("it has answered"),
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_was_interrupted_anywhere_is_completed() {
    let (one, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = start(one.path()).await;
    let token = token(&broker, HOUR).await;
    join(&mut config(whole.path()), &token, &Udp).await.unwrap();
    fs::write(
        whole.path().join("joining.toml"),
        format!("id = \"{:032x}\"\n", token.cluster),
    )
    .unwrap();
    // The files in the order in which they are written.
    let files = [
        "version",
        "joining.toml",
        "broker.toml",
        "tls/broker.key",
        "tls/ca.key",
        "tls/ca.pem",
        "tls/broker.pem",
        "tokens",
        "client.toml",
        "cluster.toml",
    ];
    for written in 0..=files.len() {
        let dir = tempfile::tempdir().unwrap();
        if written > 3 {
            fs::create_dir(dir.path().join("tls")).unwrap();
        }
        for file in &files[..written] {
            fs::copy(whole.path().join(file), dir.path().join(file)).unwrap();
        }
        let config = config(dir.path());
        if (2..files.len()).contains(&written) {
            let refused = Identity::load_or_create(&config).unwrap_err();
            assert!(
                matches!(refused, IdentityError::JoinInterrupted { .. }),
                "{written}: {refused}"
            );
        }
        join(&mut config.clone(), &token, &Udp).await.unwrap();
        let identity = Identity::load_or_create(&config).unwrap();
        assert!(
            matches!(identity.membership(), Membership::Joined { .. }),
            "{written}"
        );
        identity.server_tls().unwrap();
        assert!(identity.accepts_token(&identity.profile(&[]).token.unwrap()));
    }
    broker.stop().await;
}
