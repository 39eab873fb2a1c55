//! `flumen plugin test`: what its library call tells.
use super::*;

fn values(texts: &[&str]) -> Vec<TrialRecord> {
    let record = |text: &&str| TrialRecord {
        key: None,
        value: text.as_bytes().to_vec(),
    };
    texts.iter().map(record).collect()
}

#[test]
fn a_filter_is_told_by_numbers_and_failures_by_words() {
    let mut texts = vec!["good"; 2_500];
    texts[1_700] = "bad";
    let config = settings("misbehave", r#"{"do": "error"}"#);
    let report = try_out(guest("misbehave"), config, &values(&texts)).unwrap();
    assert_eq!(report.world, Some(World::Filter));
    assert_eq!(
        (report.records, report.kept, report.dropped),
        (2_500, 2_499, 0)
    );
    assert_eq!(
        report.failed,
        [(Some(b"bad".to_vec()), "cannot stand bad".to_owned())]
    );
    assert_eq!(report.changed, Some(0));
    assert_eq!(report.output.len(), 2_499);
    assert!(report.nanoseconds_per_record.unwrap() > 0.0);
}

#[test]
fn a_transform_is_told_by_what_came_out() {
    let config = || settings("plain", "");
    let texts = values(&["stay", "say changed"]);
    let report = try_out(guest("plain"), config(), &texts).unwrap();
    assert_eq!(report.world, Some(World::Transform));
    assert_eq!(report.changed, Some(1));
    assert_eq!(
        report.output,
        [Some(b"stay".to_vec()), Some(b"changed".to_vec())]
    );

    let texts = values(&["drop", "to elsewhere", "panic here", "twice two"]);
    let report = try_out(guest("plain"), config(), &texts).unwrap();
    assert_eq!(report.changed, None);
    assert_eq!(report.kept, 2);
    assert_eq!(report.routed["elsewhere"], 1);
    assert_eq!(report.failed.len(), 1);
    assert!(report.failed[0].1.contains("told to panic: here"));
    assert_eq!(report.failed_calls, 1);
    assert_eq!(report.nanoseconds_per_record, None);
}

#[test]
fn what_a_broker_would_refuse_is_refused_here_too() {
    let config = settings("misbehave", "{}");
    let error = try_out(b"text".to_vec(), config.clone(), &[]).unwrap_err();
    assert!(matches!(error, TryOutError::Deploy(_)), "{error}");
    let error = try_out(guest("misbehave"), config, &[]).unwrap_err();
    assert!(matches!(error, TryOutError::Bind(_)), "{error}");
}

#[test]
fn no_records_are_no_error() {
    let config = settings("misbehave", r#"{"do": "nothing"}"#);
    let report = try_out(guest("misbehave"), config, &[]).unwrap();
    assert_eq!((report.records, report.nanoseconds_per_record), (0, None));
}
