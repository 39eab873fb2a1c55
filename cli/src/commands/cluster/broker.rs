//! Brokers as people name them.

use anyhow::{Result, anyhow, bail};
use flumen_protocol::{
    ids::BrokerId,
    message::{BrokerOverview, BrokerState, ClusterStatus},
};

use crate::{failure::usage, hint::similar};

/// The beginning of an id has so many characters at least: a slip must not drain a broker.
const ID_CHARS_MIN: usize = 4;

/// The broker that `name` means: its id, the beginning of its id if no other begins so, its
/// address, or the host in it if it has a broker of its own.
pub(super) fn find<'a>(status: &'a ClusterStatus, name: &str) -> Result<&'a BrokerOverview> {
    if name.is_empty() {
        return Err(usage(
            "the name of a broker is empty; write its id or address",
        ));
    }
    let brokers = &status.brokers;
    let exact = |broker: &&BrokerOverview| broker.id.to_string() == name || broker.address == name;
    if let Some(found) = brokers.iter().find(exact) {
        return Ok(found);
    }
    let is_id = name.bytes().all(|byte| byte.is_ascii_digit());
    if is_id && name.len() < ID_CHARS_MIN {
        return Err(usage(format!(
            "{name} is too little of an id; write {ID_CHARS_MIN} digits of it at least, or the \
             broker's address"
        )));
    }
    let begins =
        |broker: &&BrokerOverview| broker.id.to_string().starts_with(name) || host(broker) == name;
    let there = brokers
        .iter()
        .filter(|broker| broker.state != BrokerState::Removed);
    let found: Vec<_> = there.filter(begins).collect();
    match found[..] {
        [broker] => Ok(broker),
        [] => Err(unknown(status, name)),
        _ => {
            let names: Vec<_> = found.iter().map(ToString::to_string).collect();
            bail!("{name} may be {}; write more of it", names.join(" or "))
        }
    }
}

/// What [`find`] takes for each broker that is no removed one, with what else is known of it: its
/// id, and its host if no other broker has it. No address: shells take the colon in it for the end
/// of a word.
pub(crate) fn names(status: &ClusterStatus) -> Vec<(String, String)> {
    let there = || {
        let brokers = status.brokers.iter();
        brokers.filter(|broker| broker.state != BrokerState::Removed)
    };
    let mut names = Vec::new();
    for broker in there() {
        let address = &broker.address;
        let about = match &broker.zone {
            Some(zone) => format!("{address}, {zone}"),
            None => address.clone(),
        };
        names.push((broker.id.to_string(), about));
        let host = host(broker);
        let is_alone = there().filter(|other| self::host(other) == host).count() == 1;
        if is_alone && !host.contains(':') {
            names.push((host.to_owned(), format!("broker {}", broker.id)));
        }
    }
    names
}

/// Whether this is the id that was asked for.
pub(super) fn by_id(status: &ClusterStatus, id: BrokerId) -> Result<&BrokerOverview> {
    let gone = || anyhow!("broker {id} is no part of the cluster any more");
    status.broker(id).ok_or_else(gone)
}

fn host(broker: &BrokerOverview) -> &str {
    let split = broker.address.rsplit_once(':');
    split.map_or(broker.address.as_str(), |(host, _)| host)
}

fn unknown(status: &ClusterStatus, name: &str) -> anyhow::Error {
    let error = format!("there is no broker {name}; `flumen cluster status` lists them");
    let ids: Vec<_> = status.brokers.iter().map(|b| b.id.to_string()).collect();
    let addresses = status.brokers.iter().map(|broker| broker.address.as_str());
    let there = ids.iter().map(String::as_str).chain(addresses);
    match similar(name, there) {
        Some(meant) => anyhow!("{error}; did you mean {meant}?"),
        None => anyhow!(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker_names::tests::well;

    fn status() -> ClusterStatus {
        ClusterStatus {
            brokers: vec![
                well(12_345, "a.example:4650"),
                well(12_999, "b.example:4650"),
                well(12_998, "d.example:4650"),
                well(7, "c.example:1"),
                well(71, "c.example:2"),
            ],
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn a_broker_is_found_by_its_id_a_unique_beginning_of_it_its_address_or_its_host() {
        let status = status();
        for (name, id) in [
            ("12345", 12_345),
            ("1234", 12_345),
            ("12999", 12_999),
            ("7", 7),
            ("71", 71),
            ("a.example:4650", 12_345),
            ("b.example", 12_999),
            ("c.example:2", 71),
        ] {
            assert_eq!(find(&status, name).unwrap().id, BrokerId(id), "{name}");
        }
    }

    #[test]
    fn the_names_that_a_shell_completes_are_found() {
        let status = status();
        let names = names(&status);
        let only: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            only,
            [
                "12345",
                "a.example",
                "12999",
                "b.example",
                "12998",
                "d.example",
                "7",
                "71"
            ]
        );
        assert!(only.into_iter().all(|name| find(&status, name).is_ok()));
        assert_eq!(names[0].1, "a.example:4650");
    }

    #[test]
    fn a_name_that_fits_none_or_several_says_what_to_write() {
        let status = status();
        for (name, said) in [
            (
                "1299",
                "12999 (b.example:4650) or 12998 (d.example:4650); write more",
            ),
            ("123", "write 4 digits of it at least"),
            ("1", "write 4 digits of it at least"),
            ("c.example", "write more"),
            ("a.exmaple:4650", "did you mean a.example:4650?"),
            ("99", "write 4 digits of it at least"),
            ("9999", "there is no broker 9999"),
            ("", "empty"),
        ] {
            let error = find(&status, name).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
