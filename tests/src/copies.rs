//! What each broker's own copy of a topic holds, asked of that broker.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use flumen_client::{BrokerId, StartAt, TopicName};
use flumen_protocol::{
    batch::Batch,
    message::{ConsumeEvent, ConsumeOpen, Metadata, Request, Response},
};

use crate::{checker::Seen, cluster::Cluster, raw::RawClient, wait::DEADLINE};

/// How often copies are compared until they are equal.
const POLL: Duration = Duration::from_millis(200);

/// The batches of each partition, in order, as the broker sends them.
pub type Copy = BTreeMap<u32, Vec<Batch>>;

/// Reads the copies of a topic on all brokers that have one, and waits until they are equal to
/// the last byte. Returns one of them.
///
/// # Panics
/// When they are not equal within the deadline, or a partition has fewer than `replicas`.
pub async fn equal_copies(cluster: &Cluster, topic: &TopicName, replicas: usize) -> Copy {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let difference = match read_equal(cluster, topic, replicas).await {
            Ok(copy) => return copy,
            Err(difference) => format!("{difference:#}"),
        };
        assert!(
            Instant::now() < deadline,
            "after {DEADLINE:?} the copies still differ: {difference}"
        );
        tokio::time::sleep(POLL).await;
    }
}

async fn read_equal(cluster: &Cluster, topic: &TopicName, replicas: usize) -> Result<Copy> {
    let running = cluster.brokers.iter().filter(|broker| broker.is_running());
    let mut copies: BTreeMap<u32, Vec<(BrokerId, Vec<Batch>)>> = BTreeMap::new();
    for broker in running {
        let raw = RawClient::connect(&broker.profile()?).await?;
        let Response::Status(status) = raw.request(Request::Status).await?? else {
            bail!("another answer than a status");
        };
        let metadata = metadata(&raw, topic).await?;
        let partitions = partitions_at(&metadata, status.id);
        let copy = read_copy(&raw, topic, &partitions)
            .await
            .with_context(|| format!("cannot read the copy of {}", broker.address()))?;
        for (partition, batches) in copy {
            let of_partition = copies.entry(partition).or_default();
            of_partition.push((status.id, batches));
        }
    }
    let mut equal = Copy::new();
    for (partition, mut copies) in copies {
        if copies.len() < replicas {
            bail!("partition {partition} has {} copies only", copies.len());
        }
        let (first, batches) = copies.remove(0);
        for (broker, others) in &copies {
            if let Some(difference) = difference(&batches, others) {
                bail!("partition {partition} on brokers {first} and {broker}: {difference}");
            }
        }
        equal.insert(partition, batches);
    }
    Ok(equal)
}

async fn metadata(raw: &RawClient, topic: &TopicName) -> Result<Metadata> {
    let topics = vec![topic.clone()];
    match raw.request(Request::Metadata { topics }).await?? {
        Response::Metadata(metadata) => Ok(metadata),
        other => bail!("another answer than metadata: {other:?}"),
    }
}

/// The partitions of the one topic in `metadata` that a broker has a copy of.
fn partitions_at(metadata: &Metadata, broker: BrokerId) -> Vec<u32> {
    let has_copy = |id| {
        let mut shards = metadata.shards.iter();
        shards.any(|shard| shard.id == id && shard.replicas.contains(&broker))
    };
    let topic = metadata.topics.first();
    let shards = topic.map(|topic| topic.shards.as_slice());
    let indexes = (0u32..).zip(shards.unwrap_or_default());
    let indexes = indexes.filter(|(_, shard)| has_copy(**shard));
    indexes.map(|(index, _)| index).collect()
}

/// All that a broker has of some partitions.
async fn read_copy(raw: &RawClient, topic: &TopicName, partitions: &[u32]) -> Result<Copy> {
    let mut copy = Copy::new();
    if partitions.is_empty() {
        return Ok(copy);
    }
    let starts = partitions.iter().map(|index| (*index, StartAt::Beginning));
    let open = ConsumeOpen {
        topic: topic.clone(),
        topic_id: None,
        partitions: starts.collect(),
    };
    let (_writer, mut reader) = raw.consume(open).await?;
    let mut left: BTreeMap<u32, u64> = BTreeMap::new();
    let read = async {
        loop {
            let frame = reader.next_with_payload::<ConsumeEvent>().await?;
            let (event, payload) = frame.context("the stream has ended")?;
            match event {
                ConsumeEvent::Started(started) => {
                    for start in started {
                        // It starts again behind a gap.
                        copy.entry(start.partition).or_default();
                        let end = start.end_offset.context("nobody knows where it ends")?;
                        if start.start_offset < end {
                            left.entry(start.partition).or_insert(end.0);
                        } else {
                            left.remove(&start.partition);
                        }
                    }
                }
                ConsumeEvent::Batch { partition, .. } => {
                    let batch = Batch::decode(payload)?;
                    if left.get(&partition) <= Some(&batch.end_offset().0) {
                        left.remove(&partition);
                    }
                    copy.entry(partition).or_default().push(batch);
                }
                ConsumeEvent::Failed(error) | ConsumeEvent::PartitionFailed { error, .. } => {
                    bail!(error)
                }
                other => bail!("an event that nobody expects: {other:?}"),
            }
            if left.is_empty() {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .context("the copy does not arrive")??;
    Ok(copy)
}

fn difference(one: &[Batch], other: &[Batch]) -> Option<String> {
    let describe = |batch: Option<&Batch>| match batch {
        Some(batch) => format!("{:?}", batch.header()),
        None => "nothing more".to_owned(),
    };
    let length = one.len().max(other.len());
    let unequal = (0..length).find(|at| {
        let (one, other) = (one.get(*at), other.get(*at));
        one.map(Batch::to_bytes) != other.map(Batch::to_bytes)
    })?;
    Some(format!(
        "batch {unequal} is {} here and {} there",
        describe(one.get(unequal)),
        describe(other.get(unequal))
    ))
}

/// The records in a copy, whose values are `producer number`.
///
/// # Panics
/// When a record is none of a test's producers.
pub fn records(copy: &Copy) -> Vec<Seen> {
    let mut records = Vec::new();
    for (partition, batches) in copy {
        for batch in batches {
            let columns = batch.columns().unwrap();
            for index in 0..columns.len() {
                let value = columns.value_bytes(index).unwrap();
                let offset = columns.offset(index).0;
                records.push(Seen::parse(&value, *partition, offset));
            }
        }
    }
    records
}
