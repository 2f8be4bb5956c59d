//! `quorate join`: has a running cluster take a new member in, over the protocol of its clients.
//!
//! Every step asks first what is there, so that a join that was cut off goes on where it stopped
//! when it is tried again. Not here: starting the new member.

use std::time::{Duration, Instant};

use crate::client_access::{ClientAccess, ConnectError};
use crate::first_contact::first_contact;
use crate::member_client::CallError;
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
    /// What the user should hear of a `replace` that named nobody, in one sentence.
    pub note: Option<String>,
}

/// Has the new member added, or finds that it was.
///
/// Says once to `tell` why it has to try again. An error is one plain sentence, which also tells if
/// somebody was removed by then.
pub async fn admit(wanted: &Admission, tell: impl FnOnce(&str)) -> Result<Admitted, String> {
    let give_up = Instant::now() + PATIENCE;
    let (mut removal, mut tell) = (None, Some(tell));
    loop {
        let error = match try_to_admit(wanted, &mut removal).await {
            Ok(admitted) => return Ok(admitted),
            Err(Setback::Final(sentence)) => return Err(with_removal(sentence, removal)),
            Err(Setback::NotNow(sentence)) => sentence,
        };
        if Instant::now() >= give_up {
            return Err(with_removal(error, removal));
        }
        if let Some(tell) = tell.take() {
            tell(&format!("{error}; trying again for {} s", PATIENCE.as_secs()));
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

/// What this join has done to the member that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// Asked for; what became of it, the next listing of the members shows.
    Asked(u64),
    Done(u64),
}

impl Removal {
    fn id(self) -> u64 {
        let (Removal::Asked(id) | Removal::Done(id)) = self;
        id
    }
}

fn with_removal(sentence: String, removal: Option<Removal>) -> String {
    match removal {
        None => sentence,
        Some(Removal::Asked(id)) => format!(
            "{sentence}; member {id:x} may have been removed: if it is not listed any more, the \
             same command without --replace goes on"
        ),
        Some(Removal::Done(id)) => format!(
            "{sentence}; member {id:x} was removed: the same command without --replace goes on"
        ),
    }
}

async fn try_to_admit(
    wanted: &Admission,
    removal: &mut Option<Removal>,
) -> Result<Admitted, Setback> {
    let contact = first_contact(&wanted.access, &wanted.from, CALL_TIMEOUT).await;
    let (client, _) = contact.map_err(|error| match error {
        ConnectError::Unreachable(sentence) => Setback::NotNow(sentence),
        ConnectError::Refused(sentence) => Setback::Final(sentence),
    })?;
    let listing = |error: CallError| Setback::of("the members cannot be listed", &error);
    let mut members = client.members_now().await.map_err(listing)?;
    loop {
        match next_step(&members, wanted, *removal).map_err(Setback::Final)? {
            Step::Start(admitted) => return Ok(admitted),
            Step::Remove(old) => {
                let removed = client.remove_member(old).await;
                match &removed {
                    Ok(_) => *removal = Some(Removal::Done(old)),
                    Err(CallError::Unknown(_)) => *removal = Some(Removal::Asked(old)),
                    // This time; an earlier request may still be on its way.
                    Err(CallError::Refused(_)) => {}
                }
                let step = format!("member {old:x} cannot be removed");
                members = removed.map_err(|error| Setback::of(&step, &error))?;
            }
            Step::Add => break,
        }
    }
    *removal = removal.map(|removal| Removal::Done(removal.id()));
    let added = client.add_member(&wanted.peer_url, wanted.learner).await;
    let adding =
        |error: CallError| Setback::of(&format!("{} cannot be added", wanted.name), &error);
    let (id, members) = added.map_err(adding)?;
    Ok(admitted(id, wanted.learner, &members, wanted))
}

/// What is left to be done.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Remove this member; then there is a next step.
    Remove(u64),
    Add,
    /// It has been added.
    Start(Admitted),
}

/// Whatever the listing shows to be in the way is said before anybody is removed.
fn next_step(
    members: &[Member],
    wanted: &Admission,
    removal: Option<Removal>,
) -> Result<Step, String> {
    let added = match at(members, &wanted.peer_url) {
        Some(known) if known.name.is_empty() => Some(known),
        Some(known) if !is_to_be_replaced(known, wanted) => return Err(in_use(known, wanted)),
        _ => None,
    };
    let (old, note) = match (&wanted.replace, removal) {
        (None, _) => (None, None),
        // By its id: another may bear the name.
        (Some(_), Some(begun)) => (Some(begun.id()), None),
        (Some(old), None) => match (find(members, old)?, added) {
            (Some(one), _) => (Some(one), None),
            (None, Some(_)) => (None, Some(nobody_removed(members, old))),
            (None, None) => return Err(nobody_called(members, old)),
        },
    };
    let mut others = members.iter().filter(|member| Some(member.id) != old);
    if others.any(|member| member.name == wanted.name) {
        let name = &wanted.name;
        let or = match old {
            None => format!(", or say --replace {name}"),
            Some(_) => String::new(),
        };
        return Err(format!("a member is called {name} already: choose another --name{or}"));
    }
    let added_id = added.map(|added| added.id);
    let still_there = |id: &u64| members.iter().any(|member| member.id == *id);
    Ok(match (old.filter(|id| Some(*id) != added_id && still_there(id)), added) {
        (Some(old), _) => Step::Remove(old),
        (None, Some(known)) => {
            let admitted = admitted(known.id, known.is_learner, members, wanted);
            Step::Start(Admitted { note, ..admitted })
        }
        (None, None) => Step::Add,
    })
}

fn at<'a>(members: &'a [Member], peer_url: &str) -> Option<&'a Member> {
    members.iter().find(|member| member.peer_ur_ls.iter().any(|url| url == peer_url))
}

fn is_called(member: &Member, name_or_id: &str) -> bool {
    let is_name = !member.name.is_empty() && member.name == name_or_id;
    is_name || format!("{:x}", member.id) == name_or_id.to_ascii_lowercase()
}

/// A new member may take the address of the one whose place it takes; one that was added for it by
/// an earlier attempt has not started.
fn is_to_be_replaced(known: &Member, wanted: &Admission) -> bool {
    let has_started = !known.name.is_empty();
    has_started && wanted.replace.as_ref().is_some_and(|old| is_called(known, old))
}

/// The id of the one to remove, if there is one: never by a guess.
fn find(members: &[Member], name_or_id: &str) -> Result<Option<u64>, String> {
    let mut called = members.iter().filter(|member| is_called(member, name_or_id));
    match (called.next(), called.next()) {
        (Some(_), Some(_)) => {
            Err(format!("more than one member is called {name_or_id}: say --replace with an id"))
        }
        (one, _) => Ok(one.map(|one| one.id)),
    }
}

fn nobody_called(members: &[Member], name_or_id: &str) -> String {
    format!(
        "no member is called {name_or_id}: the members are {}; if it was removed before, or this \
         one joins in addition, leave --replace out",
        names(members)
    )
}

fn nobody_removed(members: &[Member], name_or_id: &str) -> String {
    format!(
        "nobody was removed: no member is called {name_or_id}, which an earlier attempt may have \
         removed; the members are {}",
        names(members)
    )
}

fn names(members: &[Member]) -> String {
    let shown = members.iter().map(|member| match member.name.as_str() {
        "" => format!("{:x} (not started)", member.id),
        name => format!("{name} ({:x})", member.id),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn in_use(known: &Member, wanted: &Admission) -> String {
    format!(
        "{} is the address of {} ({:x}), which has started before, with another data directory: \
         say --replace {:x} if that directory is lost",
        wanted.peer_url, known.name, known.id, known.id
    )
}

fn admitted(id: u64, learner: bool, members: &[Member], wanted: &Admission) -> Admitted {
    let others = members.iter().filter(|member| member.id != id && !member.name.is_empty());
    let mut list: Vec<String> = others
        .filter_map(|member| Some(format!("{}={}", member.name, member.peer_ur_ls.first()?)))
        .collect();
    list.push(format!("{}={}", wanted.name, wanted.peer_url));
    Admitted { id, learner, initial_cluster: list.join(","), note: None }
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

    fn started(step: Result<Step, String>) -> Admitted {
        let Ok(Step::Start(admitted)) = step else { panic!("it may start, not {step:?}") };
        admitted
    }

    #[test]
    fn whoever_was_added_and_never_started_goes_on_where_it_stopped() {
        let [n1, n2] = [member(1, "n1", "http://a:1"), member(2, "n2", "http://b:1")];
        let members = [n1, member(4, "", "http://d:1"), n2];
        let admitted = started(next_step(&members, &wanted(None), None));
        assert_eq!((admitted.id, admitted.note), (4, None));
        assert_eq!(admitted.initial_cluster, "n1=http://a:1,n2=http://b:1,n4=http://d:1");
        // Whoever is to go goes first.
        let replacing = wanted(Some("n2"));
        for begun in [None, Some(Removal::Asked(2))] {
            assert_eq!(next_step(&members, &replacing, begun), Ok(Step::Remove(2)));
        }
        for begun in [Removal::Asked(2), Removal::Done(2)] {
            let admitted = started(next_step(&members[..2], &replacing, Some(begun)));
            assert_eq!((admitted.id, admitted.note), (4, None));
            assert_eq!(admitted.initial_cluster, "n1=http://a:1,n4=http://d:1");
        }
        // It is itself the one that is named.
        assert_eq!(started(next_step(&members, &wanted(Some("4")), None)).note, None);
    }

    #[test]
    fn a_replace_that_named_nobody_is_told() {
        let members = [member(1, "n1", "http://a:1"), member(4, "", "http://d:1")];
        let note = started(next_step(&members, &wanted(Some("n2")), None)).note.expect("told");
        assert!(note.starts_with("nobody was removed: no member is called n2"), "{note}");
        next_step(&members[..1], &wanted(Some("n2")), None).expect_err("nothing begun");
    }

    /// Trap: the name of whoever has not started is empty.
    #[test]
    fn nobody_is_called_nothing() {
        let members = [member(1, "n1", "http://a:1"), member(5, "", "http://e:1")];
        next_step(&members, &wanted(Some("")), None).expect_err("that is somebody else");
        assert_eq!(next_step(&members, &wanted(Some("5")), None), Ok(Step::Remove(5)));
    }

    #[test]
    fn an_address_that_is_in_use_must_be_replaced_by_name() {
        let members = [member(0xa, "n1", "http://d:1")];
        let refused = next_step(&members, &wanted(None), None).expect_err("in use");
        assert!(refused.ends_with("say --replace a if that directory is lost"), "{refused}");
        for old in ["n1", "A"] {
            assert_eq!(next_step(&members, &wanted(Some(old)), None), Ok(Step::Remove(0xa)));
        }
        next_step(&members, &wanted(Some("n2")), None).expect_err("in use by another");
    }

    #[test]
    fn nobody_is_removed_on_a_guess() {
        let members = [member(1, "twin", "http://a:1"), member(2, "twin", "http://b:1")];
        let step = |old| next_step(&members, &wanted(Some(old)), None);
        assert!(step("twin").expect_err("two").contains("say --replace with an id"));
        let none = step("n9").expect_err("none");
        assert!(none.contains("twin (1), twin (2)") && none.contains("leave --replace out"));
        assert_eq!(step("2"), Ok(Step::Remove(2)));
    }

    #[test]
    fn a_name_that_another_member_has_is_refused_before_anybody_is_removed() {
        let members = [member(1, "n1", "http://a:1"), member(4, "n4", "http://b:1")];
        let refused = next_step(&members, &wanted(Some("n1")), None).expect_err("n4 is taken");
        assert_eq!(refused, "a member is called n4 already: choose another --name");
        let refused = next_step(&members, &wanted(None), None).expect_err("n4 is taken");
        assert!(refused.ends_with("or say --replace n4"), "{refused}");
        assert_eq!(next_step(&members, &wanted(Some("n4")), None), Ok(Step::Remove(4)));
    }

    #[tokio::test]
    async fn whoever_waits_is_told_what_for() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let dead = free.local_addr().expect("bound").to_string();
        drop(free);
        let wanted = Admission { from: vec![dead.clone()], ..wanted(None) };
        let (tell, told) = tokio::sync::oneshot::channel();
        let told = tokio::select! {
            told = told => told.expect("while it waits"),
            end = admit(&wanted, |why| drop(tell.send(why.to_owned()))) => panic!("{end:?}"),
        };
        assert!(told.contains(&dead) && told.ends_with("trying again for 30 s"), "{told}");
    }

    #[test]
    fn a_removal_is_remembered_by_id_and_told_if_the_rest_fails() {
        let wanted = wanted(Some("n2"));
        let before = [member(1, "n1", "http://a:1"), member(2, "n2", "http://b:1")];
        // The answer was lost: whether it had its effect, the listing says.
        let asked = Some(Removal::Asked(2));
        assert_eq!(next_step(&before, &wanted, asked), Ok(Step::Remove(2)));
        assert_eq!(next_step(&before[..1], &wanted, asked), Ok(Step::Add));
        // Somebody else who took the name meanwhile stays.
        let after = [member(1, "n1", "http://a:1"), member(7, "n2", "http://c:1")];
        assert_eq!(next_step(&after, &wanted, Some(Removal::Done(2))), Ok(Step::Add));
        let told = with_removal("no".to_owned(), Some(Removal::Done(2)));
        assert_eq!(told, "no; member 2 was removed: the same command without --replace goes on");
        assert!(with_removal("no".to_owned(), asked).contains("may have been removed"));
        assert_eq!(with_removal("no".to_owned(), None), "no");
    }
}
