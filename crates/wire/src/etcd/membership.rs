//! Members and their URLs: etcd's Cluster calls in `store`'s words and back.
//!
//! Internally a peer is reached at an address, `host:port`, which stands for a URL of the scheme
//! that this cluster's members speak; a URL of another scheme keeps it.

use super::errors::MEMBER_BAD_URLS;
use super::{ProtocolError, pb};
use clocks::NodeId;
use store::ListedMember;
use store::command::{Command, MembershipCommand};

/// URLs of one member (etcd sets no bound); each that long at most.
const URLS_MAX: usize = 16;
const URL_BYTES_MAX: usize = 256;

/// MemberAdd, for the id that was drawn for it.
///
/// # Errors
/// If a URL is none.
pub fn add(
    id: NodeId,
    request: &pb::MemberAddRequest,
    peer_scheme: &str,
) -> Result<Command, ProtocolError> {
    let peer_addresses = addresses(&request.peer_ur_ls, peer_scheme)?;
    let learner = request.is_learner;
    Ok(Command::Membership(MembershipCommand::Add { id, peer_addresses, learner }))
}

/// MemberUpdate.
///
/// # Errors
/// If a URL is none.
pub fn update(
    request: &pb::MemberUpdateRequest,
    peer_scheme: &str,
) -> Result<Command, ProtocolError> {
    let peer_addresses = addresses(&request.peer_ur_ls, peer_scheme)?;
    let id = NodeId(request.id);
    Ok(Command::Membership(MembershipCommand::Update { id, peer_addresses }))
}

/// MemberRemove.
#[must_use]
pub fn remove(request: &pb::MemberRemoveRequest) -> Command {
    Command::Membership(MembershipCommand::Remove { id: NodeId(request.id) })
}

/// MemberPromote.
#[must_use]
pub fn promote(request: &pb::MemberPromoteRequest) -> Command {
    Command::Membership(MembershipCommand::Promote { id: NodeId(request.id) })
}

/// A member as clients see it.
#[must_use]
pub fn member(listed: ListedMember, peer_scheme: &str) -> pb::Member {
    let ListedMember { member, learner } = listed;
    pb::Member {
        id: member.id.0,
        name: member.name,
        peer_ur_ls: member.peer_addresses.into_iter().map(|peer| url(peer, peer_scheme)).collect(),
        client_ur_ls: member.client_urls,
        is_learner: learner,
    }
}

fn url(address: String, scheme: &str) -> String {
    if address.contains("://") { address } else { format!("{scheme}://{address}") }
}

/// The addresses that the URLs stand for, in etcd's order: that of the URLs.
fn addresses(urls: &[String], peer_scheme: &str) -> Result<Vec<String>, ProtocolError> {
    if urls.is_empty() || urls.len() > URLS_MAX {
        return Err(MEMBER_BAD_URLS);
    }
    let mut urls: Vec<&str> = urls.iter().map(|url| url.trim()).collect();
    urls.sort_unstable();
    urls.dedup();
    urls.into_iter().map(|url| address(url, peer_scheme).ok_or(MEMBER_BAD_URLS)).collect()
}

/// `http://host:port` and `https://host:port`; etcd's sockets of the file system reach no other
/// machine and are not taken.
fn address(url: &str, peer_scheme: &str) -> Option<String> {
    let (scheme, place) = url.split_once("://").filter(|_| url.len() <= URL_BYTES_MAX)?;
    let (host, port) = place.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let sound = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
        Some(inner) => inner?.parse::<core::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(plain)
        }
    };
    match scheme.to_ascii_lowercase().as_str() {
        scheme @ ("http" | "https") if sound && scheme == peer_scheme => Some(place.to_owned()),
        scheme @ ("http" | "https") if sound => Some(format!("{scheme}://{place}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::command::Member;

    fn addresses_of(urls: &[&str]) -> Result<Vec<String>, ProtocolError> {
        addresses(&urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>(), "http")
    }

    #[test]
    fn urls_keep_their_scheme_in_listings() {
        let peer_addresses = addresses_of(&[" https://b:2380 ", "http://[::1]:2380"]);
        let peer_addresses = peer_addresses.expect("sound");
        assert_eq!(peer_addresses, ["[::1]:2380", "https://b:2380"]);
        let listed =
            ListedMember { member: Member { peer_addresses, ..Member::default() }, learner: true };
        let member = member(listed, "http");
        assert_eq!(member.peer_ur_ls, ["http://[::1]:2380", "https://b:2380"]);
        assert!(member.is_learner);
    }

    #[test]
    fn what_etcd_calls_bad_urls_is_refused() {
        for bad in [
            &[][..],
            &[""],
            &["a:1"],
            &["http://a"],
            &["http://a:1/"],
            &["http://a:1/path"],
            &["ftp://a:1"],
            &["unix://a:1"],
            &["http://a:99999"],
            &["http://[::1:1"],
            &["http://a b:1"],
            &["http://user@a:1"],
            &["http://:1"],
            &["http://a:1", "bad"],
        ] {
            assert_eq!(addresses_of(bad), Err(MEMBER_BAD_URLS), "{bad:?}");
        }
    }
}
