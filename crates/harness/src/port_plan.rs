//! Where the members of a local cluster listen: the standard ports, 10,000 apart, plus an offset.
//!
//! Invariant: no two listeners of one cluster share a port.

/// Most members that a local cluster may have.
pub const MEMBERS_MAX: usize = 5;

/// etcd's client port.
const ETCD_PORT: u32 = 2379;
/// etcd's peer port.
const PEER_PORT: u32 = 2380;
/// Health, metrics and status for operators.
const ADMIN_PORT: u32 = 2381;
/// Where a proxy stands before the peer port, if there is one.
const LINK_PORT: u32 = 2382;
/// From one member to the next.
const STRIDE: u32 = 10_000;

/// The listeners of one member, on the loopback interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddresses {
    /// Serves clients of the etcd protocol.
    pub etcd: String,
    /// Serves the other members.
    pub peer: String,
    /// Serves operators.
    pub admin: String,
}

/// The addresses of `members` members, or one plain sentence why that cannot be.
pub fn plan(members: usize, offset: u16) -> Result<Vec<MemberAddresses>, String> {
    if !(1..=MEMBERS_MAX).contains(&members) {
        return Err(format!("a local cluster has 1 to {MEMBERS_MAX} nodes, not {members}"));
    }
    (0..members).map(|member| addresses(member, offset)).collect()
}

/// Where the proxies before the peer ports of `members` members listen.
pub(crate) fn links(members: usize, offset: u16) -> Result<Vec<String>, String> {
    (0..members).map(|member| address(member, offset, LINK_PORT)).collect()
}

/// The addresses of member `number`, from 1.
pub fn of(number: usize, offset: u16) -> Result<MemberAddresses, String> {
    let members = plan(number, offset)?;
    Ok(members.into_iter().next_back().expect("a local cluster has members"))
}

/// By how much the ports of member `number` are moved, if they are as planned.
pub fn offset_of(number: usize, addresses: &MemberAddresses) -> Option<u16> {
    let unmoved = of(number, 0).ok()?;
    let port = |address: &str| address.rsplit_once(':')?.1.parse::<u16>().ok();
    let offset = port(&addresses.etcd)?.checked_sub(port(&unmoved.etcd)?)?;
    (of(number, offset).as_ref() == Ok(addresses)).then_some(offset)
}

/// What is said of an address that somebody else listens on: the ports of a node that has run, by
/// this name, cannot be chosen any more.
pub(crate) fn taken(address: &str, has_run: Option<&str>) -> String {
    match has_run {
        Some(name) => format!("{address} is in use: {name} seems to run already; stop it first"),
        None => {
            format!("{address} is in use by another process: stop that one, or say --offset N")
        }
    }
}

fn addresses(member: usize, offset: u16) -> Result<MemberAddresses, String> {
    Ok(MemberAddresses {
        etcd: address(member, offset, ETCD_PORT)?,
        peer: address(member, offset, PEER_PORT)?,
        admin: address(member, offset, ADMIN_PORT)?,
    })
}

fn address(member: usize, offset: u16, port: u32) -> Result<String, String> {
    let stride = STRIDE * u32::try_from(member).expect("at most five members");
    let port = port + stride + u32::from(offset);
    u16::try_from(port).map(|port| format!("127.0.0.1:{port}")).map_err(|_| {
        format!(
            "node {} would listen on port {port}, above 65535; lower --offset or --nodes",
            member + 1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_ten_thousand_apart() {
        let plan = plan(3, 0).expect("three members fit");
        let etcd: Vec<&str> = plan.iter().map(|member| member.etcd.as_str()).collect();
        assert_eq!(etcd, ["127.0.0.1:2379", "127.0.0.1:12379", "127.0.0.1:22379"]);
        assert_eq!(plan[2].peer, "127.0.0.1:22380");
        assert_eq!(plan[2].admin, "127.0.0.1:22381");
    }

    #[test]
    fn a_port_above_the_last_is_refused() {
        assert!(plan(5, 23_154).is_ok());
        let refusal = plan(5, 23_155).expect_err("the admin port of node 5 is 65536");
        assert!(refusal.contains("node 5 would listen on port 65536"), "{refusal}");
    }

    #[test]
    fn an_offset_is_seen_from_the_ports() {
        for (number, offset) in [(1, 0), (4, 0), (2, 7), (5, 23_154)] {
            let addresses = of(number, offset).expect("it fits");
            assert_eq!(offset_of(number, &addresses), Some(offset));
        }
        let moved = MemberAddresses { admin: "127.0.0.1:9".to_owned(), ..of(1, 0).expect("fits") };
        assert_eq!(offset_of(1, &moved), None);
        assert_eq!(offset_of(4, &of(1, 100).expect("fits")), None, "below its own");
    }

    #[test]
    fn one_to_five_members() {
        assert!(plan(1, 0).is_ok());
        assert!(plan(0, 0).is_err());
        assert!(plan(6, 0).is_err());
    }
}
