//! A host with or without a port, as it is told to clients.

use std::{fmt, net::IpAddr, str::FromStr};

/// `host`, `host:port`, `1.2.3.4:4650` or `[::1]:4650`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: Option<u16>,
}

/// Several of them, with commas between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPorts(Vec<HostPort>);

impl HostPorts {
    /// Each as `host:port`, with `port` where none was given.
    pub fn with_port(&self, port: u16) -> Vec<String> {
        self.0.iter().map(|host| host.with_port(port)).collect()
    }

    /// Adds others.
    pub(crate) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }
}

impl FromStr for HostPorts {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let hosts = text.split(',').map(|host| host.trim().parse());
        hosts.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for HostPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.0.iter().map(HostPort::to_string).collect();
        f.pad(&hosts.join(","))
    }
}

/// A text that is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host; write HOST or HOST:PORT, such as broker-1.example.com:4650")]
pub struct HostPortError(String);

impl HostPort {
    /// The name or the address alone, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `host:port`, with `port` where none was given.
    pub fn with_port(&self, port: u16) -> String {
        let port = self.port.unwrap_or(port);
        match self.host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            _ => format!("{}:{port}", self.host),
        }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let error = || HostPortError(text.to_owned());
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or_else(error)?;
            (host, after.strip_prefix(':'))
        } else if text.parse::<IpAddr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = port.map(str::parse).transpose().map_err(|_| error())?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_host = host.parse::<IpAddr>().is_ok() || host.chars().all(is_name);
        if host.is_empty() || !is_host || port == Some(0) {
            return Err(error());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => f.pad(&self.with_port(port)),
            None => f.pad(&self.host),
        }
    }
}
