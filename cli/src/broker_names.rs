//! Brokers as people know them: by their addresses and zones, beside ids that nobody remembers.

use flumen_protocol::{
    ids::{BrokerId, ShardId},
    message::{ClusterStatus, ReplicaStatus},
};

use crate::output::or_dash;

/// A broker with what the cluster knows of it: `1139 (broker-3:4650, eu-1)`. The id alone where it
/// knows nothing.
pub(crate) fn full_name(cluster: &ClusterStatus, id: BrokerId) -> String {
    match cluster.broker(id) {
        Some(broker) => match &broker.zone {
            Some(zone) => format!("{id} ({}, {zone})", broker.address),
            None => broker.to_string(),
        },
        None => id.to_string(),
    }
}

/// The leader of a shard, or a dash where there is none.
pub(crate) fn leader(cluster: &ClusterStatus, id: Option<BrokerId>) -> String {
    or_dash(id.map(|id| full_name(cluster, id)))
}

/// The address of a broker, or its id where that is not known: for many of them in one line.
pub(crate) fn short_name(cluster: &ClusterStatus, id: BrokerId) -> String {
    let broker = cluster.broker(id);
    broker.map_or_else(|| id.to_string(), |broker| broker.address.clone())
}

/// Those who have a copy. Who does not count for a majority stands in brackets.
pub(crate) fn replicas(cluster: &ClusterStatus, replicas: &[ReplicaStatus]) -> String {
    let name = |replica: &ReplicaStatus| {
        let name = short_name(cluster, replica.broker);
        if replica.voter {
            name
        } else {
            format!("({name})")
        }
    };
    let names: Vec<_> = replicas.iter().map(name).collect();
    names.join(", ")
}

/// The copies of a shard; none while they are not known.
pub(crate) fn replicas_of(cluster: &ClusterStatus, shard: ShardId) -> Option<&[ReplicaStatus]> {
    let mut shards = cluster.shards.iter();
    let found = shards.find(|overview| overview.id == shard)?;
    Some(&found.replicas)
}

#[cfg(test)]
pub(crate) mod tests {
    use flumen_protocol::message::{BrokerOverview, BrokerState};

    use super::*;

    /// A broker with which all is well, and which has nothing yet.
    pub(crate) fn well(id: u64, address: &str) -> BrokerOverview {
        BrokerOverview {
            id: BrokerId(id),
            address: address.to_owned(),
            zone: None,
            state: BrokerState::Active,
            reachable: true,
            version: None,
            leaders: 0,
            replicas: 0,
            lag_records: 0,
            lag_bytes: 0,
            round_trip_us: None,
            degraded: None,
            damaged_shards: 0,
            behind_shards: 0,
        }
    }

    #[test]
    fn a_broker_has_its_address_and_zone_beside_its_id_if_they_are_known() {
        let broker = |id, zone: Option<&str>| BrokerOverview {
            zone: zone.map(str::to_owned),
            ..well(id, &format!("broker-{id}:4650"))
        };
        let cluster = ClusterStatus {
            brokers: vec![broker(1, Some("eu-1")), broker(2, None)],
            ..ClusterStatus::default()
        };
        let names = [1, 2, 3].map(|id| full_name(&cluster, BrokerId(id)));
        assert_eq!(names, ["1 (broker-1:4650, eu-1)", "2 (broker-2:4650)", "3"]);
        assert_eq!(leader(&cluster, None), "-");
        let copy = |id, voter| ReplicaStatus {
            broker: BrokerId(id),
            voter,
            lag_entries: None,
            lag_records: 0,
            lag_bytes: 0,
        };
        assert_eq!(
            replicas(&cluster, &[copy(2, true), copy(1, false), copy(3, true)]),
            "broker-2:4650, (broker-1:4650), 3"
        );
    }
}
