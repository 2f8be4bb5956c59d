//! `quorate join`: has a running cluster take a new member in, over the protocol of its clients.
//!
//! Every step asks first what is there, so that a join that was cut off goes on where it stopped
//! when it is tried again. Not here: starting the new member.

use std::time::{Duration, Instant};

use crate::client_access::ClientAccess;
use crate::member_client::{CallError, MemberClient};
use crate::proto::etcdserverpb::Member;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// How long to go on while the cluster says "not now": between leaders, or while the change
/// before this one settles.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(300);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Admission {
    /// How the members let it in.
    pub access: ClientAccess,
    /// Members to ask (`host:port` each), in turn.
    pub from: Vec<String>,
    /// The new member's name.
    pub name: String,
    /// The URL at which its peers are to reach it.
    pub peer_url: String,
    /// It shall only receive the log at first.
    pub learner: bool,
    /// Name or id of a member to remove for it.
    pub replace: Option<String>,
}

/// What the new member starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its id.
    pub id: u64,
    /// It does not vote before it is promoted.
    pub learner: bool,
    /// `NAME=URL` of the members to ask, and of itself, separated by commas.
    pub initial_cluster: String,
}

/// Has the new member added, or finds that it was.
///
/// An error is one plain sentence.
pub async fn admit(wanted: &Admission) -> Result<Admitted, String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let error = match try_to_admit(wanted).await {
            Ok(admitted) => return Ok(admitted),
            Err(Setback::Final(sentence)) => return Err(sentence),
            Err(Setback::NotNow(sentence)) => sentence,
        };
        if Instant::now() >= give_up {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Why an attempt failed, by what to do next.
enum Setback {
    Final(String),
    NotNow(String),
}

impl Setback {
    fn of(step: &str, error: &CallError) -> Setback {
        // What the cluster refuses while it changes, and grants soon after.
        const SOON: [&str; 3] = ["unhealthy cluster", "not enough started", "not capable"];
        let sentence = format!("{step}: {error}");
        match error {
            CallError::Unknown(_) => Setback::NotNow(sentence),
            CallError::Refused(why) if SOON.iter().any(|soon| why.contains(soon)) => {
                Setback::NotNow(sentence)
            }
            CallError::Refused(_) => Setback::Final(sentence),
        }
    }
}

async fn try_to_admit(wanted: &Admission) -> Result<Admitted, Setback> {
    let client = connect(&wanted.access, &wanted.from).await.map_err(Setback::NotNow)?;
    let listing = |error: CallError| Setback::of("the members cannot be listed", &error);
    let members = client.members_now().await.map_err(listing)?;
    if let Some(known) = at(&members, &wanted.peer_url)
        && !is_to_be_replaced(known, wanted)
    {
        return already_there(known, &members, wanted);
    }
    let mut remaining = members;
    if let Some(old) = &wanted.replace
        && let Some(gone) = find(&remaining, old)?
    {
        let removed = client.remove_member(gone).await;
        let removing = |error: CallError| Setback::of(&format!("{old} cannot be removed"), &error);
        remaining = removed.map_err(removing)?;
    }
    if remaining.iter().any(|member| member.name == wanted.name) {
        return Err(Setback::Final(format!(
            "a member is called {} already: choose another --name, or say --replace {}",
            wanted.name, wanted.name
        )));
    }
    let added = client.add_member(&wanted.peer_url, wanted.learner).await;
    let adding =
        |error: CallError| Setback::of(&format!("{} cannot be added", wanted.name), &error);
    let (id, members) = added.map_err(adding)?;
    Ok(admitted(id, wanted.learner, &members, wanted))
}

async fn connect(access: &ClientAccess, endpoints: &[String]) -> Result<MemberClient, String> {
    let mut complaints = Vec::new();
    for endpoint in endpoints {
        let address = access.address(endpoint)?;
        match MemberClient::connect_by(access, &address, CALL_TIMEOUT).await {
            Ok(client) => return Ok(client),
            Err(complaint) => complaints.push(complaint),
        }
    }
    Err(format!("no member answers: {}", complaints.join("; ")))
}

fn at<'a>(members: &'a [Member], peer_url: &str) -> Option<&'a Member> {
    members.iter().find(|member| member.peer_ur_ls.iter().any(|url| url == peer_url))
}

fn is_called(member: &Member, name_or_id: &str) -> bool {
    member.name == name_or_id || format!("{:x}", member.id) == name_or_id.to_ascii_lowercase()
}

/// A new member may take the address of the one whose place it takes; one that was added for it by
/// an earlier attempt has not started.
fn is_to_be_replaced(known: &Member, wanted: &Admission) -> bool {
    let has_started = !known.name.is_empty();
    has_started && wanted.replace.as_ref().is_some_and(|old| is_called(known, old))
}

/// The id of the one to remove; none if an earlier attempt has removed it, as far as a name tells.
fn find(members: &[Member], name_or_id: &str) -> Result<Option<u64>, Setback> {
    let mut called = members.iter().filter(|member| is_called(member, name_or_id));
    match (called.next(), called.next()) {
        (Some(one), None) => Ok(Some(one.id)),
        (Some(_), Some(_)) => Err(Setback::Final(format!(
            "more than one member is called {name_or_id}: say --replace with an id"
        ))),
        (None, _) => Err(Setback::Final(format!(
            "no member is called {name_or_id}: the members are {}; without --replace this one \
             joins in addition",
            names(members)
        ))),
    }
}

fn names(members: &[Member]) -> String {
    let shown = members.iter().map(|member| match member.name.as_str() {
        "" => format!("{:x} (not started)", member.id),
        name => format!("{name} ({:x})", member.id),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn already_there(
    known: &Member,
    members: &[Member],
    wanted: &Admission,
) -> Result<Admitted, Setback> {
    if known.name.is_empty() {
        return Ok(admitted(known.id, known.is_learner, members, wanted));
    }
    Err(Setback::Final(format!(
        "{} is the address of {} ({:x}), which has started before, with another data directory: \
         say --replace {:x} if that directory is lost",
        wanted.peer_url, known.name, known.id, known.id
    )))
}

fn admitted(id: u64, learner: bool, members: &[Member], wanted: &Admission) -> Admitted {
    let others = members.iter().filter(|member| member.id != id && !member.name.is_empty());
    let mut list: Vec<String> = others
        .filter_map(|member| Some(format!("{}={}", member.name, member.peer_ur_ls.first()?)))
        .collect();
    list.push(format!("{}={}", wanted.name, wanted.peer_url));
    Admitted { id, learner, initial_cluster: list.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, peer_url: &str) -> Member {
        let peer_ur_ls = vec![peer_url.to_owned()];
        Member { id, name: name.to_owned(), peer_ur_ls, ..Member::default() }
    }

    fn wanted(replace: Option<&str>) -> Admission {
        Admission {
            access: ClientAccess::default(),
            from: Vec::new(),
            name: "n4".to_owned(),
            peer_url: "http://d:1".to_owned(),
            learner: false,
            replace: replace.map(str::to_owned),
        }
    }

    fn said(setback: Setback) -> String {
        match setback {
            Setback::Final(sentence) | Setback::NotNow(sentence) => sentence,
        }
    }

    #[test]
    fn whoever_was_added_and_never_started_goes_on_where_it_stopped() {
        let members = [member(1, "n1", "http://a:1"), member(4, "", "http://d:1")];
        let known = at(&members, "http://d:1").expect("listed");
        let admitted = already_there(known, &members, &wanted(Some("n2"))).map_err(said);
        let admitted = admitted.expect("it may start");
        assert_eq!(admitted.id, 4);
        assert_eq!(admitted.initial_cluster, "n1=http://a:1,n4=http://d:1");
    }

    #[test]
    fn an_address_that_is_in_use_must_be_replaced_by_name() {
        let members = [member(0xa, "n1", "http://d:1")];
        let refused = already_there(&members[0], &members, &wanted(None)).expect_err("in use");
        assert!(said(refused).ends_with("say --replace a if that directory is lost"));
        assert!(is_to_be_replaced(&members[0], &wanted(Some("n1"))));
        assert!(is_to_be_replaced(&members[0], &wanted(Some("A"))));
        assert!(!is_to_be_replaced(&members[0], &wanted(Some("n2"))));
    }

    #[test]
    fn nobody_is_removed_on_a_guess() {
        let members = [member(1, "twin", "http://a:1"), member(2, "twin", "http://b:1")];
        assert!(
            said(find(&members, "twin").expect_err("two")).contains("say --replace with an id")
        );
        assert!(said(find(&members, "n9").expect_err("none")).contains("twin (1), twin (2)"));
        assert!(matches!(find(&members, "2"), Ok(Some(2))));
    }
}
