//! Says once that the node can serve: in the log, in etcd's words, for people and scripts that
//! wait for them, and to a service manager that started the node with `Type=notify`.
//!
//! Not here: probes that ask again and again (`etcd::probe`).

use crate::NodeHandle;
use clocks::GroupId;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Between two looks whether there is a leader.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Where a service manager listens (sd_notify(3)).
const SOCKET: &str = "NOTIFY_SOCKET";

/// Waits for the first leader, and tells.
pub(crate) async fn tell(handle: NodeHandle) {
    while handle.leader(GroupId::KEYSPACE).is_none() {
        if handle.is_stopping() {
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    tracing::info!("ready to serve client requests");
    if let Some(socket) = std::env::var_os(SOCKET)
        && let Err(error) = notify(&socket)
    {
        tracing::warn!("cannot tell the service manager at {}: {error}", socket.display());
    }
}

fn notify(socket: &OsStr) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told_by_path_or_by_abstract_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("a socket");
        let name = format!("quorate-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an address");
        let by_name = UnixDatagram::bind_addr(&address).expect("a socket");
        notify(path.as_os_str()).expect("told");
        notify(format!("@{name}").as_ref()).expect("told");
        for socket in [by_path, by_name] {
            let mut said = [0; 16];
            let length = socket.recv(&mut said).expect("a datagram");
            assert_eq!(&said[..length], b"READY=1");
        }
        assert!(notify(directory.path().join("nobody").as_os_str()).is_err());
    }
}
