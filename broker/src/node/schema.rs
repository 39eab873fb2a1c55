//! The messages between brokers are what they were.

use flumen_protocol::ALPN_PEER;
use flumen_schema::Schema;

use crate::{catalog, cluster::BrokerReport, peer, shard};

#[test]
fn a_message_between_brokers_that_changes_raises_the_version_of_the_protocol() {
    let mut schema = Schema::default();
    peer::add_messages(&mut schema);
    shard::add_messages(&mut schema);
    catalog::add_messages(&mut schema);
    schema.add::<BrokerReport>();
    super::remote::add_messages(&mut schema);
    schema.assert_pinned(ALPN_PEER);
}
