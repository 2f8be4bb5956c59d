//! Permissions: nobody does what the users and roles of that very moment do not allow, and nobody
//! is refused what they do.
//!
//! A dumb model of role-based access control (etcd's rules): changes are told in the order in which
//! they were decided, and each attempt at its place among them. A read has no place in that order:
//! it is held against every state between its start and its end.
//!
//! Not here: passwords, tokens, and whether members agree (`agreement`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// To read.
    Read,
    /// To write.
    Write,
}

/// From the first key, included, to the second, excluded.
pub type Keys = (Vec<u8>, Vec<u8>);

/// A change of users and roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Everybody is asked who they are.
    Enable,
    /// Nobody is.
    Disable,
    /// A new user without roles; as it is, if there is one.
    AddUser(String),
    /// A user goes.
    DeleteUser(String),
    /// A new role without permissions; as it is, if there is one.
    AddRole(String),
    /// A role goes, and all who have it lose it.
    DeleteRole(String),
    /// A user gets a role that there is.
    GrantRole(String, String),
    /// A user loses a role.
    RevokeRole(String, String),
    /// A role that there is allows these accesses to exactly these keys, and no others.
    GrantKeys(String, BTreeSet<Access>, Keys),
    /// A role loses what it allows to exactly these keys.
    RevokeKeys(String, Keys),
}

/// The user, and the role, that may do everything.
const ROOT: &str = "root";

/// Users and roles at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    enabled: bool,
    users: BTreeMap<String, BTreeSet<String>>,
    roles: BTreeMap<String, BTreeMap<Keys, BTreeSet<Access>>>,
}

impl State {
    fn change(&mut self, change: Change) {
        match change {
            Change::Enable => {
                self.enabled |= self.users.get(ROOT).is_some_and(|roles| roles.contains(ROOT));
            }
            Change::Disable => self.enabled = false,
            Change::AddUser(user) => drop(self.users.entry(user).or_default()),
            Change::DeleteUser(user) => drop(self.users.remove(&user)),
            Change::AddRole(role) => drop(self.roles.entry(role).or_default()),
            Change::DeleteRole(role) => {
                if self.roles.remove(&role).is_some() {
                    for roles in self.users.values_mut() {
                        roles.remove(&role);
                    }
                }
            }
            Change::GrantRole(user, role) => {
                let exists = role == ROOT || self.roles.contains_key(&role);
                if let Some(roles) = self.users.get_mut(&user).filter(|_| exists) {
                    roles.insert(role);
                }
            }
            Change::RevokeRole(user, role) => {
                if let Some(roles) = self.users.get_mut(&user) {
                    roles.remove(&role);
                }
            }
            Change::GrantKeys(role, accesses, keys) => {
                if let Some(permissions) = self.roles.get_mut(&role) {
                    permissions.insert(keys, accesses);
                }
            }
            Change::RevokeKeys(role, keys) => {
                if let Some(permissions) = self.roles.get_mut(&role) {
                    permissions.remove(&keys);
                }
            }
        }
    }

    /// Whether a user may access a single key.
    fn allows(&self, user: &str, access: Access, key: &[u8]) -> bool {
        if !self.enabled {
            return true;
        }
        let Some(roles) = self.users.get(user) else { return false };
        let granted = roles.iter().filter_map(|role| self.roles.get(role)).flatten();
        roles.contains(ROOT)
            || granted.into_iter().any(|((from, to), accesses)| {
                accesses.contains(&access) && from[..] <= *key && *key < to[..]
            })
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An attempt that was not allowed took effect, or was answered.
    Unauthorised {
        /// Whose.
        user: String,
        /// What, as the caller named it.
        what: String,
    },
    /// An attempt that was allowed was refused.
    Denied {
        /// Whose.
        user: String,
        /// What, as the caller named it.
        what: String,
    },
}

/// An attempt: somebody's accesses to single keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Who.
    pub user: String,
    /// What for.
    pub accesses: Vec<(Access, Vec<u8>)>,
}

/// Watches the users and roles of one keyspace.
#[derive(Clone, Debug)]
pub struct Permissions {
    /// All states that there were, the last one in force.
    states: Vec<State>,
    /// By name: who wants what.
    attempts: BTreeMap<String, Attempt>,
    /// By name: whether it was allowed at its place.
    verdicts: BTreeMap<String, bool>,
    allowed: u64,
    denied: u64,
}

impl Default for Permissions {
    fn default() -> Self {
        Self::new()
    }
}

impl Permissions {
    /// Nobody is asked who they are.
    pub fn new() -> Self {
        let (attempts, verdicts) = (BTreeMap::new(), BTreeMap::new());
        let states = vec![State::default()];
        Permissions { states, attempts, verdicts, allowed: 0, denied: 0 }
    }

    /// A change was decided.
    pub fn changed(&mut self, change: Change) {
        let mut state = self.states[self.states.len() - 1].clone();
        state.change(change);
        self.states.push(state);
    }

    /// Whether everybody is asked who they are now.
    pub fn is_enabled(&self) -> bool {
        self.states[self.states.len() - 1].enabled
    }

    /// How many changes there were: names the state in force.
    pub fn moment(&self) -> usize {
        self.states.len() - 1
    }

    /// Somebody is going to write under this name, used once.
    pub fn attempt(&mut self, name: &str, attempt: Attempt) {
        self.attempts.insert(name.to_owned(), attempt);
    }

    /// The attempt of this name has its place here, behind the changes so far.
    pub fn decided(&mut self, name: &str) {
        let Some(attempt) = self.attempts.get(name) else { return };
        let state = &self.states[self.states.len() - 1];
        let allowed = is_allowed(state, attempt);
        *(if allowed { &mut self.allowed } else { &mut self.denied }) += 1;
        self.verdicts.insert(name.to_owned(), allowed);
    }

    /// The attempt of this name took effect.
    pub fn took_effect(&self, name: &str) -> Result<(), Violation> {
        let Some(attempt) = self.attempts.get(name) else { return Ok(()) };
        match self.verdicts.get(name) {
            Some(true) => Ok(()),
            _ => Err(Violation::Unauthorised { user: attempt.user.clone(), what: name.to_owned() }),
        }
    }

    /// The attempt of this name was refused, for lack of permission.
    pub fn refused(&self, name: &str) -> Result<(), Violation> {
        let Some(attempt) = self.attempts.get(name) else { return Ok(()) };
        match self.verdicts.get(name) {
            Some(false) => Ok(()),
            _ => Err(Violation::Denied { user: attempt.user.clone(), what: name.to_owned() }),
        }
    }

    /// A read that began at this moment was answered now, or refused for lack of permission.
    pub fn read(&self, attempt: &Attempt, since: usize, answered: bool) -> Result<(), Violation> {
        let fits = |state: &State| is_allowed(state, attempt) == answered;
        if self.states[since..].iter().any(fits) {
            return Ok(());
        }
        let (user, what) = (attempt.user.clone(), show(&attempt.accesses));
        Err(match answered {
            true => Violation::Unauthorised { user, what },
            false => Violation::Denied { user, what },
        })
    }

    /// Writes that were allowed and writes that were not.
    pub fn seen(&self) -> (u64, u64) {
        (self.allowed, self.denied)
    }
}

fn is_allowed(state: &State, attempt: &Attempt) -> bool {
    attempt.accesses.iter().all(|(access, key)| state.allows(&attempt.user, *access, key))
}

fn show(accesses: &[(Access, Vec<u8>)]) -> String {
    let show =
        |(access, key): &(Access, Vec<u8>)| format!("{access:?} {}", String::from_utf8_lossy(key));
    accesses.iter().map(show).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Unauthorised { user, what } => {
                write!(f, "{user} was not allowed to do this and did: {what}")
            }
            Violation::Denied { user, what } => {
                write!(f, "{user} was allowed to do this and was refused: {what}")
            }
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(user: &str, key: &str) -> Attempt {
        Attempt { user: user.to_owned(), accesses: vec![(Access::Write, key.into())] }
    }

    /// Authentication is on; ann may write from a to c.
    fn guarded() -> Permissions {
        let mut permissions = Permissions::new();
        let text = str::to_owned;
        for change in [
            Change::AddUser(text("root")),
            Change::GrantRole(text("root"), text("root")),
            Change::AddUser(text("ann")),
            Change::AddRole(text("writer")),
            Change::GrantKeys(text("writer"), [Access::Write].into(), (b"a".into(), b"c".into())),
            Change::GrantRole(text("ann"), text("writer")),
            Change::Enable,
        ] {
            permissions.changed(change);
        }
        permissions
    }

    #[test]
    fn what_is_allowed_at_its_place_is_fine_and_must_not_be_refused() {
        let mut permissions = guarded();
        permissions.attempt("1", write("ann", "b"));
        permissions.decided("1");
        permissions.changed(Change::RevokeRole("ann".into(), "writer".into()));
        permissions.took_effect("1").unwrap();
        assert!(permissions.refused("1").is_err());
    }

    #[test]
    fn what_is_not_allowed_must_be_refused() {
        let mut permissions = guarded();
        for (name, attempt) in [
            ("outside", write("ann", "c")),
            ("a stranger's", write("bob", "b")),
            ("a read", Attempt { user: "ann".into(), accesses: vec![(Access::Read, b"b".into())] }),
        ] {
            permissions.attempt(name, attempt);
            permissions.decided(name);
            permissions.refused(name).unwrap();
            assert!(permissions.took_effect(name).is_err(), "{name}");
        }
        permissions.changed(Change::DeleteRole("writer".into()));
        permissions.attempt("late", write("ann", "b"));
        permissions.decided("late");
        assert!(permissions.took_effect("late").is_err());
        assert_eq!(permissions.seen(), (0, 4));
    }

    #[test]
    fn nobody_is_asked_while_authentication_is_off_and_root_may_do_everything() {
        let mut permissions = guarded();
        permissions.attempt("root's", write("root", "z"));
        permissions.decided("root's");
        permissions.took_effect("root's").unwrap();
        permissions.changed(Change::Disable);
        permissions.attempt("anybody's", write("bob", "z"));
        permissions.decided("anybody's");
        permissions.took_effect("anybody's").unwrap();
        let mut unguarded = Permissions::new();
        unguarded.changed(Change::Enable);
        unguarded.attempt("too early", write("bob", "z"));
        unguarded.decided("too early");
        unguarded.took_effect("too early").unwrap();
    }

    #[test]
    fn a_read_is_held_against_every_state_from_its_start_on() {
        let mut permissions = guarded();
        let before = permissions.moment();
        permissions.changed(Change::DeleteUser("ann".into()));
        let after = permissions.moment();
        permissions.read(&write("ann", "b"), before, true).unwrap();
        permissions.read(&write("ann", "b"), before, false).unwrap();
        assert!(permissions.read(&write("ann", "b"), after, true).is_err());
        permissions.read(&write("ann", "b"), after, false).unwrap();
    }
}
