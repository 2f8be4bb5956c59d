//! What the members say of their leader, as it changes: asked of every member many times a second,
//! so that it can be told how soon a fault was noticed.
//!
//! Not here: what the clients notice (`open_loop`).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::client_load::Load;
use crate::member_client::MemberClient;

/// From one look at a member to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A member that takes longer does not answer.
const LOOK_TIMEOUT: Duration = Duration::from_millis(300);

/// What a member says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Nothing.
    Silent,
    /// Whom it follows (0: nobody) in which term.
    Following {
        /// The leader's id.
        leader: u64,
        /// The member's term.
        term: u64,
        /// The member's own id.
        own: u64,
    },
}

/// A member's view from some moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Nanoseconds since the start of the run.
    pub(crate) at: u64,
    pub(crate) member: usize,
    pub(crate) view: View,
}

/// Every change of every member's view, in order.
#[derive(Debug, Default)]
pub(crate) struct Sightings {
    all: RefCell<Vec<Sighting>>,
}

impl Sightings {
    /// Those so far.
    pub(crate) fn so_far(&self) -> Vec<Sighting> {
        self.all.borrow().clone()
    }

    /// What each of `members` said last.
    pub(crate) fn last_views(&self, members: usize) -> Vec<View> {
        let all = self.all.borrow();
        let last = |member| all.iter().rev().find(|sighting| sighting.member == member);
        (0..members).map(|member| last(member).map_or(View::Silent, |last| last.view)).collect()
    }

    /// The member that says that it leads; of several, the one with the newest term.
    pub(crate) fn leader(&self, members: usize) -> Option<usize> {
        let views = self.last_views(members).into_iter().enumerate();
        let leading = views.filter_map(|(member, view)| match view {
            View::Following { leader, term, own } if leader == own && own != 0 => {
                Some((term, member))
            }
            _ => None,
        });
        leading.max().map(|(_, member)| member)
    }

    fn note(&self, at: u64, member: usize, view: View) {
        let mut all = self.all.borrow_mut();
        let last = all.iter().rev().find(|sighting| sighting.member == member);
        if last.is_none_or(|last| last.view != view) {
            all.push(Sighting { at, member, view });
        }
    }
}

/// Looks at one member until the load is finished.
pub(crate) async fn observe(
    sightings: Rc<Sightings>,
    load: Rc<Load>,
    member: usize,
    client: MemberClient,
) {
    while !load.finished.get() {
        let next = tokio::time::Instant::now() + LOOK_INTERVAL;
        let status = tokio::time::timeout(LOOK_TIMEOUT, client.status()).await;
        let view = match status {
            Ok(Ok(status)) => View::Following {
                leader: status.leader,
                term: status.raft_term,
                own: status.header.map_or(0, |header| header.member_id),
            },
            Ok(Err(_)) | Err(_) => View::Silent,
        };
        sightings.note(load.now(), member, view);
        tokio::time::sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_kept_and_the_newest_term_leads() {
        let sightings = Sightings::default();
        let following = |leader, term, own| View::Following { leader, term, own };
        sightings.note(1, 0, following(7, 1, 7));
        sightings.note(2, 0, following(7, 1, 7));
        sightings.note(3, 1, following(7, 1, 8));
        assert_eq!(sightings.so_far().len(), 2);
        assert_eq!(sightings.leader(3), Some(0));
        sightings.note(4, 1, following(8, 2, 8));
        assert_eq!(sightings.leader(3), Some(1), "the other does not know it yet");
        sightings.note(5, 1, View::Silent);
        assert_eq!(sightings.leader(3), Some(0));
        assert_eq!(sightings.last_views(3)[2], View::Silent);
    }
}
