//! The messages of the protocol between clients and brokers are what they were.

use flumen_protocol::{
    ALPN_CLIENT,
    message::{ConsumeEvent, ProduceAcks, ProduceBatch, Reply, StreamOpen},
};
use flumen_schema::Schema;

#[test]
fn a_message_that_changes_raises_the_version_of_the_protocol() {
    let mut schema = Schema::default();
    schema.add::<StreamOpen>();
    schema.add::<Reply>();
    schema.add::<ProduceBatch>();
    schema.add::<ProduceAcks>();
    schema.add::<ConsumeEvent>();
    schema.assert_pinned(ALPN_CLIENT);
}
