//! What configuration is taken, what is refused, and with which words.

use std::time::Duration;

use super::*;

#[test]
fn an_empty_file_gives_the_defaults_and_they_are_valid() {
    let config = BrokerConfig::from_toml("").unwrap();
    assert_eq!(config, BrokerConfig::default());
    config.validate().unwrap();
}

#[test]
fn every_setting_reads_back_what_it_writes() {
    let defaults = BrokerConfig::default();
    let mut config = BrokerConfig::default();
    for setting in settings() {
        config
            .set(setting.key, &setting.default, Source::File)
            .unwrap();
        assert!(!setting.doc.is_empty(), "{} has no doc", setting.key);
    }
    assert_eq!(config, defaults);
    let text = toml::to_string(&defaults).unwrap();
    assert_eq!(BrokerConfig::from_toml(&text).unwrap(), defaults);
}

#[test]
fn every_setting_of_the_struct_is_in_the_list() {
    let table = toml::Table::try_from(BrokerConfig::default()).unwrap();
    let mut keys = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(section) => {
                keys.extend(
                    section
                        .into_iter()
                        .map(|(field, _)| format!("{key}.{field}")),
                );
            }
            _ => keys.push(key),
        }
    }
    let mut listed: Vec<_> = settings().iter().map(|s| s.key.to_owned()).collect();
    keys.sort();
    listed.sort();
    assert_eq!(keys, listed);
}

#[test]
fn values_are_taken_as_text_and_as_numbers() {
    let config = BrokerConfig::from_toml(
        "admin = \"none\"\nshards = 4\nlisten = \"[::1]:0\"\n\
         [wal]\nsync = \"every 250ms\"\nbytes_max = 268435456\n\
         [memory]\ntail_bytes_max = \"1GiB\"",
    )
    .unwrap();
    assert_eq!(config.admin, None);
    assert_eq!(config.shards.get(), 4);
    assert_eq!(
        config.wal.sync,
        SyncPolicy::Every(Duration::from_millis(250))
    );
    assert_eq!(config.wal.bytes_max, ByteSize::mib(256));
    assert_eq!(config.memory.tail_bytes_max, ByteSize::gib(1));
}

#[test]
fn a_number_of_shards_is_asked_for_even_if_it_is_the_default() {
    let config = BrokerConfig::default();
    assert_eq!(config.shards.asked_for(), None);
    let default = config.shards.get();
    let config = BrokerConfig::from_toml(&format!("shards = {default}")).unwrap();
    assert_eq!(config.shards.asked_for(), Some(default));
}

#[test]
fn a_value_of_another_type_is_refused_with_its_line_and_what_is_expected() {
    for (text, expected) in [
        ("data_dir = 3", "PATH"),
        ("advertise = 3", "HOST[:PORT]"),
        ("log = 1", "TEXT"),
        ("shutdown_grace = 10", "DURATION"),
        ("data_dir = true", "PATH"),
        ("data_dir = [\"a\"]", "PATH"),
        ("shards = 1.5", "a number or a text in quotes: N"),
        ("shards = -1", "a whole number"),
        ("wal = 3", "line 1"),
    ] {
        let error = BrokerConfig::from_toml(text).unwrap_err().to_string();
        assert!(
            error.contains("line 1") && error.contains(expected),
            "{text}: {error}"
        );
    }
}

#[test]
fn an_unknown_setting_is_named_with_its_line() {
    let error = BrokerConfig::from_toml("[wal]\nsnyc = \"always\"").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("snyc") && text.contains("line 2"), "{text}");
    let error = BrokerConfig::default()
        .set("wal.snyc", "always", Source::Flag)
        .unwrap_err();
    assert!(error.to_string().contains("wal.snyc"));
}

#[test]
fn a_bad_value_names_the_place_to_change_the_value_and_what_is_expected() {
    let mut config = BrokerConfig::default();
    let text = |result: Result<(), ConfigError>| result.unwrap_err().to_string();
    assert_eq!(
        text(config.set("wal.bytes_max", "lots", Source::Environment)),
        "FLUMEN_WAL_BYTES_MAX: \"lots\" is not a size; write a whole number and B, KiB, MiB, GiB \
         or TiB, such as 10GiB, or kB, MB, GB or TB for powers of ten"
    );
    assert_eq!(
        text(config.set("wal.sync", "sometimes", Source::Flag)),
        "--wal-sync: \"sometimes\" is no sync policy: write \"always\", or \"every\" and a \
         time, such as \"every 100ms\""
    );
    let file = BrokerConfig::from_toml("listen = \"localhost\"").unwrap_err();
    assert!(file.to_string().contains("write IP:PORT"), "{file}");
}

#[test]
fn a_value_out_of_range_names_the_range() {
    let config = BrokerConfig::from_toml("[wal]\nsegment_bytes = \"1KiB\"").unwrap();
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "wal.segment_bytes is 1KiB, but must be between 1MiB and 1GiB"
    );
    let config = BrokerConfig::from_toml("[wal]\nbytes_max = \"64MiB\"").unwrap();
    let text = config.validate().unwrap_err().to_string();
    assert!(text.contains("4 times wal.segment_bytes"), "{text}");
}

#[test]
fn a_segment_takes_every_batch_that_clients_may_send() {
    let with = |segment: &str, batch: &str| {
        let mut config = BrokerConfig::default();
        let settings = [
            ("wal.segment_bytes", segment),
            ("limits.batch_bytes_max", batch),
        ];
        for (key, value) in settings {
            config.set(key, value, Source::Flag).unwrap();
        }
        config.validate().map_err(|error| error.to_string())
    };
    let refused = "wal.segment_bytes is 42MiB, but must be at least 43MiB, so that a batch of \
                   limits.batch_bytes_max, which is 16MiB, fits: raise the one or lower the other";
    assert_eq!(with("42MiB", "16MiB"), Err(refused.to_owned()));
    with("43MiB", "16MiB").unwrap();
    with("1MiB", "384KiB").unwrap_err();
    with("1MiB", "383KiB").unwrap();
    with("1MiB", "63KiB").unwrap_err();
    with("64MiB", "17MiB").unwrap_err();

    let wal = WalOptions {
        segment_bytes: ByteSize::mib(43).as_u64(),
        ..WalOptions::new("/wal")
    };
    let largest = limits::BATCH_BYTES_MAX + BATCH_HEAD_BYTES_MAX;
    assert!(wal.entry_bytes_max() >= largest as u64);
}

#[test]
fn a_broker_on_all_addresses_must_say_which_one_clients_use() {
    let config = BrokerConfig::from_toml("listen = \"0.0.0.0:4650\"").unwrap();
    let text = config.validate().unwrap_err().to_string();
    assert!(text.contains("advertise"), "{text}");
    let config =
        BrokerConfig::from_toml("listen = \"0.0.0.0:4650\"\nadvertise = \"b1.example.com\"")
            .unwrap();
    config.validate().unwrap();
    assert_eq!(config.advertised(config.listen), "b1.example.com:4650");
}

#[test]
fn hosts_are_taken_with_and_without_a_port() {
    for (text, with_port) in [
        ("b1", "b1:9"),
        ("b1.example.com:7", "b1.example.com:7"),
        ("10.0.0.1", "10.0.0.1:9"),
        ("::1", "[::1]:9"),
        ("[::1]:7", "[::1]:7"),
    ] {
        let host: HostPort = text.parse().unwrap();
        assert_eq!(host.with_port(9), with_port, "{text}");
    }
    for text in ["", ":1", "a b", "b1:x", "b1:0", "[::1", "b1:70000"] {
        assert!(text.parse::<HostPort>().is_err(), "{text:?}");
    }
}

#[test]
fn sizes_are_read_and_written() {
    for (text, bytes) in [
        ("0", 0),
        ("512", 512),
        ("64KiB", 65_536),
        ("64 kib", 65_536),
        ("10GiB", 10 << 30),
        ("1_000B", 1_000),
        ("2MB", 2_000_000),
        ("1GiB 512MiB", (1 << 30) + (512 << 20)),
    ] {
        assert_eq!(text.parse::<ByteSize>().unwrap().as_u64(), bytes, "{text}");
    }
    for text in [
        "",
        "GiB",
        "10G",
        "64K",
        "1.5GiB",
        "-1",
        "1 parsec",
        "99999999999TiB",
        "_",
    ] {
        assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
    }
    for bytes in [0, 1, 1_000, 1_024, 3 << 20, 5 << 40] {
        let size = ByteSize::new(bytes);
        assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
    }
}

#[test]
fn durations_are_read_and_written() {
    for (text, micros) in [
        ("0", 0),
        ("100ms", 100_000),
        ("500us", 500),
        ("1h 30min", 5_400_000_000),
        ("7d", 7 * 86_400_000_000),
        ("2 weeks", 14 * 86_400_000_000),
    ] {
        let expected = Duration::from_micros(micros);
        assert_eq!(text.parse::<Interval>().unwrap().duration(), expected);
    }
    for text in ["", "10", "1.5s", "-1s", "ms", "1 moon", "9999999999999d"] {
        assert!(text.parse::<Interval>().is_err(), "{text:?}");
    }
    for text in [
        "0s",
        "500us",
        "100ms",
        "1500ms",
        "59s",
        "1min 30s",
        "1h 30min",
        "7d",
        "31d 1s",
        "1d 1h 1min 1ms",
    ] {
        assert_eq!(text.parse::<Interval>().unwrap().to_string(), text);
    }
}

#[test]
fn an_interval_of_syncs_out_of_range_is_refused() {
    for text in ["every 0ms", "every 2min"] {
        let mut config = BrokerConfig::default();
        config.set("wal.sync", text, Source::Flag).unwrap();
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("every 1ms to 1min"), "{error}");
    }
}
