//! Who of our children holds the other end of a loopback connection, by what the kernel says.
//!
//! So that one proxy per member is enough to tell every pair of members apart, whatever program
//! they run. Not here: what is done to the connection (`link_proxy`).

use std::net::{SocketAddr, SocketAddrV4};

/// The first of `processes` that holds the socket of `caller` in its connection to `called`.
/// Nobody, if it has been closed meanwhile.
pub(crate) fn owner(
    caller: SocketAddr,
    called: SocketAddr,
    processes: &[Option<u32>],
) -> Option<usize> {
    let (SocketAddr::V4(caller), SocketAddr::V4(called)) = (caller, called) else { return None };
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let socket = format!("socket:[{}]", inode(&table, caller, called)?);
    processes.iter().position(|process| process.is_some_and(|id| holds(id, &socket)))
}

/// Of the socket at `local` that is connected to `remote`, in a table as in proc(5), `net/tcp`.
fn inode(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<u64> {
    let (local, remote) = (hexadecimal(local), hexadecimal(remote));
    let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = { row }
        .find(|row| row.get(1) == Some(&local.as_str()) && row.get(2) == Some(&remote.as_str()))?;
    row.get(9)?.parse().ok().filter(|inode| *inode != 0)
}

/// The address as a number of this machine, the port as one that people read.
fn hexadecimal(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

fn holds(process: u32, socket: &str) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let names = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    { names }.any(|name| name.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_of_our_own_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let called = listener.local_addr().expect("its address");
        let stream = TcpStream::connect(called).expect("it listens");
        let caller = stream.local_addr().expect("its address");
        let own = Some(std::process::id());
        assert_eq!(owner(caller, called, &[None, own]), Some(1));
        assert_eq!(owner(caller, called, &[None, Some(1)]), None, "init does not hold it");
        assert_eq!(owner(called, called, &[own]), None, "nobody called from there");
    }

    #[test]
    fn rows_of_the_kernel_s_table_are_understood() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                     uid  timeout inode\n   \
                     0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  \
                     1000        0 4711 1 0000000000000000 20 4 30 10 -1\n";
        let (here, there) = ("127.0.0.1:8080", "127.0.0.1:50000");
        let parse = |text: &str| text.parse::<SocketAddrV4>().expect("an address");
        assert_eq!(inode(table, parse(here), parse(there)), Some(4711));
        assert_eq!(inode(table, parse(there), parse(here)), None);
        assert_eq!(inode("", parse(here), parse(there)), None);
    }
}
