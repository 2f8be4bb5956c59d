//! Checkers: histories in, verdicts out.
//!
//! Nothing here knows how the system works inside; it knows what was promised. The simulator feeds
//! these from virtual time, the harness from real processes, and both get the same verdicts.
//!
//! | Promise | File | How it is fed |
//! |---|---|---|
//! | An operation takes effect at one moment, call to reply | [`linearizability`] | [`history`] |
//! | Revisions are unique, follow time, explain reads | [`revision_order`] | [`history`] |
//! | A watcher sees every change once, in order | [`watch`] | recorded streams |
//! | Replicas agree, one leader per term, nothing committed is lost | [`agreement`] | online |
//! | What was acknowledged is there in the end | [`durability`] | [`history`] and final reads |
//! | A numbered request is applied at most once | [`exactly_once`] | online |
//! | A lease lives as long as promised, not much longer, and ends whole | [`lease`] | online |
//! | Consecutive memberships share quorums, and stay as acknowledged | [`membership`] | online |
//! | A fenced lock loses no update | [`fencing`] | online |
//! | Counters count, transfers keep the sum | [`balance`] | online |
//! | Users do what they may, and nothing else | [`permissions`] | online |
//! | A healed cluster works again within a bound | [`liveness`] | online |
//!
//! The invariant of every checker: it may say "undecided", it never says "fine" without having
//! checked, and it raises no alarm about a history that a correct system could have produced.
//! Each is tested on known-bad histories.

pub mod agreement;
pub mod balance;
pub mod durability;
pub mod exactly_once;
mod failing_window;
pub mod fencing;
mod forward_zones;
pub mod history;
mod history_lines;
pub mod lease;
pub mod linearizability;
pub mod liveness;
pub mod membership;
pub mod permissions;
pub mod revision_order;
pub mod watch;
mod wing_gong;
