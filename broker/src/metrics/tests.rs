//! What is encoded, and that its document is true.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// A metric as those who scrape it see it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    kind: String,
    labels: BTreeSet<String>,
    unit: String,
}

/// Metrics in which every family has a member, so that its labels show.
fn sample() -> Metrics {
    let metrics = Metrics::default();
    let text = || "x".to_owned();
    let topic = TopicName::new("x").unwrap();
    let server = &metrics.server;
    for counter in [server.produced(&topic), server.consumed(&topic)].concat() {
        counter.inc();
    }
    let code = ErrorLabel { code: text() };
    server.produce_errors.get_or_create(&code).inc();
    let request = RequestLabel {
        request: "status",
        outcome: "ok",
    };
    server.requests.get_or_create(&request).inc();
    let plugin = &metrics.plugin;
    let binding = BindingLabel {
        topic: text(),
        plugin: text(),
    };
    for family in [
        &plugin.calls,
        &plugin.failures,
        &plugin.failed_records,
        &plugin.records,
    ] {
        family.get_or_create(&binding).inc();
    }
    plugin.bindings.note(&binding);
    plugin.call_time.get_or_create(&binding).inc_by(0.5);
    let counter = CounterLabel {
        topic: text(),
        plugin: text(),
        name: text(),
    };
    plugin.own_counters.note(&counter);
    plugin.counters.get_or_create(&counter).inc();
    let broker = BrokerLabel { broker: 7 };
    metrics.cluster.round_trip.get_or_create(&broker).set(0.5);
    metrics
}

/// The metrics of a scrape, by the names of their lines; a histogram by its name alone.
fn shown(text: &str) -> BTreeMap<String, Shown> {
    let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
    let mut families: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => families.entry(name).or_default().0 = kind,
            ["#", "UNIT", name, unit] => families.entry(name).or_default().1 = unit,
            ["#", ..] | [] => {}
            [line, ..] => {
                let (name, labels) = line.split_once('{').unwrap_or((line, ""));
                let ends = ["_total", "_bucket", "_sum", "_count"];
                let mut of = ends.iter().filter_map(|end| name.strip_suffix(end));
                let family = of.find(|family| families.contains_key(family));
                let (kind, unit) = families[family.unwrap_or(name)];
                let name = match kind {
                    "histogram" => family.unwrap_or(name),
                    _ => name,
                };
                let labels = labels.trim_end_matches('}').split(',');
                let labels = labels.filter_map(|label| label.split_once('='));
                let labels = labels.map(|(label, _)| label.to_owned());
                let of_metric = shown.entry(name.to_owned()).or_default();
                kind.clone_into(&mut of_metric.kind);
                unit.clone_into(&mut of_metric.unit);
                of_metric
                    .labels
                    .extend(labels.filter(|label| label != "le"));
            }
        }
    }
    shown
}

/// The rows of the document's tables.
fn documented() -> BTreeMap<String, Shown> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, unit, meaning] = cells[..] else {
            panic!("a row has other columns: {row}");
        };
        assert!(!meaning.is_empty(), "{row}");
        let plain = |text: &str| text.trim_matches('`').to_owned();
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        let shown = Shown {
            kind: kind.to_owned(),
            labels: labels.map(plain).collect(),
            unit: unit.to_owned(),
        };
        (plain(name), shown)
    });
    let all: Vec<_> = rows.collect();
    let count = all.len();
    let by_name: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(by_name.len(), count, "a metric stands there twice");
    by_name
}

#[test]
fn the_document_has_every_metric_and_no_other() {
    let (shown, documented) = (shown(&sample().encode()), documented());
    for (name, metric) in &shown {
        assert_eq!(
            documented.get(name),
            Some(metric),
            "docs/metrics.md about {name}"
        );
    }
    for name in documented.keys() {
        assert!(
            shown.contains_key(name),
            "docs/metrics.md has {name}, which is not registered"
        );
    }
}

#[test]
fn what_is_counted_is_encoded_under_its_name_and_unit() {
    let metrics = Metrics::default();
    metrics.wal.syncs.inc();
    observe(&metrics.server.produce_latency, Duration::from_millis(1));
    let topic = TopicLabel {
        topic: "orders".to_owned(),
    };
    let bytes = metrics.server.produced_bytes.get_or_create(&topic).clone();
    bytes.inc_by(7);
    let text = metrics.encode();
    for line in [
        "flumen_wal_syncs_total 1",
        "flumen_produced_bytes_total{topic=\"orders\"} 7",
        "flumen_produce_latency_seconds_count 1",
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
}

#[test]
fn a_topic_that_is_gone_has_no_metrics_any_more() {
    let metrics = sample();
    let orders = TopicName::new("orders").unwrap();
    metrics.server.produced(&orders)[0].inc();
    metrics.keep_topics(|topic| topic == "orders");
    let text = metrics.encode();
    assert!(!text.contains("topic=\"x\""), "{text}");
    assert!(text.contains("flumen_produced_records_total{topic=\"orders\"} 1"));
    // One of the same name counts from the beginning.
    metrics.server.produced(&TopicName::new("x").unwrap());
    let text = metrics.encode();
    assert!(text.contains("flumen_produced_records_total{topic=\"x\"} 0"));
}
