//! Telling systemd that a broker serves, and that it stops: what comes after it in the order of
//! units then finds a broker that answers. The protocol is that of sd_notify(3).

use std::env;

/// The variable that names the socket. It is not set elsewhere than under systemd.
pub(crate) const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Clients are served.
    Ready,
    /// It was asked to stop.
    Stopping,
}

/// Tells the state to the service manager, if there is one that wants to know.
pub(crate) fn notify(state: State) {
    let Some(socket) = env::var_os(SOCKET_VARIABLE).filter(|socket| !socket.is_empty()) else {
        return;
    };
    let text = match state {
        State::Ready => "READY=1",
        State::Stopping => "STOPPING=1",
    };
    if let Err(error) = send(&socket, text.as_bytes()) {
        tracing::warn!(%error, "cannot tell systemd {text}");
    }
}

/// Sends a datagram to a socket in the file system, or to an abstract one, written with `@`.
#[cfg(target_os = "linux")]
fn send(socket: &std::ffi::OsStr, text: &[u8]) -> std::io::Result<()> {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    };
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the broker.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(text, &address).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn send(_: &std::ffi::OsStr, _: &[u8]) -> std::io::Result<()> {
    Ok(())
}
