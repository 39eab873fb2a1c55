//! What a broker stands on: the disk and the network of the machine, or simulated ones.
//!
//! Time and random numbers are not here. A broker and the crates under it ask the system for
//! them in too many places to hand them around; a simulation answers for the system instead. How
//! blocking work and threads are run is the business of the [`executor`](crate::executor).

use std::{sync::Arc, time::Duration};

use flumen_transport::endpoint::{Network, Udp};

use crate::disk::{Disk, RealDisk};

/// The machine under a broker.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Where it keeps its data.
    pub disk: Arc<dyn Disk>,
    /// Where its sockets come from.
    pub network: Arc<dyn Network>,
    /// How often checkpoints are taken when nothing else makes them, and retention and compaction
    /// look at the logs. A simulated machine lives for seconds only, and needs them more often.
    pub upkeep_interval: Duration,
}

impl Environment {
    /// The machine itself.
    pub fn real() -> Self {
        Self {
            disk: Arc::new(RealDisk),
            network: Arc::new(Udp),
            upkeep_interval: Duration::from_secs(30),
        }
    }
}
