//! Hosts for brokers, and ways between them that can be cut, one direction at a time.
//!
//! A host is a network namespace; a bridge joins them with each other and with the test, whose
//! clients reach all of them, whatever is cut. A cut way loses packets without a word, as a broken
//! cable does: the sender is told a hardware address for the receiver that nobody has. Making all
//! this needs root.

use std::{
    fmt,
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

/// The hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:de:ad";

/// Hosts on a bridge. They go when this is dropped.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    hosts: Vec<Host>,
}

/// A host of a [`Network`].
#[derive(Clone, Debug)]
pub struct Host {
    /// Its network namespace.
    pub(crate) namespace: String,
    /// Where it is reached.
    pub address: Ipv4Addr,
}

impl Network {
    /// Makes hosts; says why where that is not possible.
    ///
    /// # Errors
    /// When this machine does not allow it, or has no `ip` and `nsenter`.
    pub fn build(hosts: u8) -> Result<Self, Unavailable> {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        // Names and addresses of this process' own, and of this network's.
        let process = std::process::id();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let subnet = |last: u8| {
            let third = (process as u8).wrapping_mul(8).wrapping_add(count);
            Ipv4Addr::new(198, 18 + (process >> 5) as u8 % 2, third, last)
        };
        let name = |what: &str| format!("fl{process:x}-{count}{what}");
        run("nsenter", &["--version"])?;
        // From here on it takes down what was made when something fails.
        let mut network = Self {
            bridge: name("b"),
            hosts: Vec::new(),
        };
        let bridge = network.bridge.clone();
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", subnet(254)))?;
        ip(&format!("link set {bridge} up"))?;
        for number in 1..=hosts {
            let (namespace, plug) = (name(&format!("n{number}")), name(&format!("p{number}")));
            let address = subnet(number);
            ip(&format!("netns add {namespace}"))?;
            network.hosts.push(Host {
                namespace: namespace.clone(),
                address,
            });
            ip(&format!(
                "link add {plug} type veth peer name eth0 netns {namespace}"
            ))?;
            ip(&format!("link set {plug} master {bridge} up"))?;
            ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(network)
    }

    /// The hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Loses from now on what one host sends to another.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn cut(&self, from: usize, to: usize) {
        let (from, to) = (&self.hosts[from], &self.hosts[to]);
        let (namespace, address) = (&from.namespace, to.address);
        ip(&format!(
            "-n {namespace} neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent"
        ))
        .unwrap();
    }

    /// Loses from now on what two hosts send to each other.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn cut_both(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// The other hosts.
    pub fn others(&self, host: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.hosts.len()).filter(move |other| *other != host)
    }

    /// Mends all that was cut.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn mend(&self) {
        for host in &self.hosts {
            let namespace = &host.namespace;
            ip(&format!(
                "-n {namespace} neigh flush dev eth0 nud permanent"
            ))
            .unwrap();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What is left of a network that was not made completely is not there to be removed.
        for host in &self.hosts {
            let _ = ip(&format!("netns del {}", host.namespace));
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}

/// Networks cannot be made on this machine.
#[derive(Debug)]
pub struct Unavailable {
    command: String,
    reason: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, reason } = self;
        write!(
            f,
            "this needs root and network namespaces: {command}: {reason}"
        )
    }
}

fn ip(arguments: &str) -> Result<(), Unavailable> {
    let arguments: Vec<_> = arguments.split(' ').collect();
    run("ip", &arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Unavailable> {
    let failed = |reason: String| Unavailable {
        command: format!("{program} {}", arguments.join(" ")),
        reason,
    };
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}
