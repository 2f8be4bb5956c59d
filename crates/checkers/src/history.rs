//! Operation history: what clients asked of a key-value service, when, and what they were told.
//!
//! A history is all that a black-box checker may know (Herlihy & Wing, 1990). The invariant: an
//! operation whose fate the client does not know is recorded as [`Outcome::Unknown`], never as
//! failed; a wrong "failed" turns a correct system into a liar, a wrong "unknown" only weakens the
//! check.
//!
//! Not here: judging it (`linearizability`, `revision_order`, `durability`).
//!
//! Used the same way by Jepsen, porcupine, and etcd's robustness tests.

use std::fmt;

pub use crate::history_lines::LineError;

/// Nanoseconds, or any other unit: only the order matters. An operation called at the moment at
/// which another returned counts as concurrent with it.
pub type Time = u64;

/// A revision of the keyspace as etcd counts them: one per write, from 2 on a fresh keyspace.
pub type Revision = u64;

/// One request by one client on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked. A client may have several operations in flight.
    pub client: u64,
    /// On which key.
    pub key: Vec<u8>,
    /// What was asked.
    pub input: Input,
    /// When the request left.
    pub call: Time,
    /// What became of it.
    pub outcome: Outcome,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Set the key. Checks are sharpest when no value is written twice.
    Put {
        /// To this.
        value: Vec<u8>,
    },
    /// A linearizable read. Serializable reads do not belong into a history.
    Get,
    /// Set the key if it holds what is expected.
    CompareAndSet {
        /// `None`: the key must not exist.
        expect: Option<Vec<u8>>,
        /// The new value.
        set: Vec<u8>,
    },
    /// Remove the key.
    Delete,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered.
    Ok {
        /// When the reply arrived; not before the call.
        at: Time,
        /// Revision in the header of the reply, where known. For an effective write it is the
        /// write's own revision, otherwise that of the keyspace as it was read.
        revision: Option<Revision>,
        /// What the reply said.
        output: Output,
    },
    /// Time-out, lost connection, crash of the client: may take effect at any time after the call,
    /// or never. Also what an operation still in flight at the end of the run is.
    Unknown,
    /// Refused: certainly had no effect, now or later.
    Failed,
}

/// What a reply said; the variant matches the [`Input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The key was set.
    Put,
    /// What the key holds.
    Get {
        /// `None`: the key does not exist.
        value: Option<Vec<u8>>,
        /// Revision at which that value was written, where known.
        mod_revision: Option<Revision>,
    },
    /// Whether the key held what was expected, and was therefore set.
    CompareAndSet {
        /// False: nothing changed.
        succeeded: bool,
    },
    /// Whether there was something to remove.
    Delete {
        /// False: nothing changed.
        deleted: bool,
    },
}

impl Operation {
    /// When the reply came, if one did.
    pub fn returned(&self) -> Option<Time> {
        match self.outcome {
            Outcome::Ok { at, .. } => Some(at),
            Outcome::Unknown | Outcome::Failed => None,
        }
    }

    /// The revision in the reply's header, if a reply came with one.
    pub fn header_revision(&self) -> Option<Revision> {
        match self.outcome {
            Outcome::Ok { revision, .. } => revision,
            Outcome::Unknown | Outcome::Failed => None,
        }
    }

    /// What the key holds after this operation, if it changes it for certain: `Some(None)` is a
    /// deletion.
    pub fn acknowledged_write(&self) -> Option<Option<&[u8]>> {
        let Outcome::Ok { output, .. } = &self.outcome else { return None };
        match (&self.input, output) {
            (Input::Put { value }, _) => Some(Some(value)),
            (Input::CompareAndSet { set, .. }, Output::CompareAndSet { succeeded: true }) => {
                Some(Some(set))
            }
            (Input::Delete, Output::Delete { deleted: true }) => Some(None),
            _ => None,
        }
    }

    /// What the key may hold after this operation, whose outcome nobody knows.
    pub fn uncertain_write(&self) -> Option<Option<&[u8]>> {
        if self.outcome != Outcome::Unknown {
            return None;
        }
        match &self.input {
            Input::Put { value } => Some(Some(value)),
            Input::CompareAndSet { set, .. } => Some(Some(set)),
            Input::Delete => Some(None),
            Input::Get => None,
        }
    }

    /// Whether the reply is one to this request, and not from before it.
    fn is_well_formed(&self) -> bool {
        let Outcome::Ok { at, output, .. } = &self.outcome else { return true };
        *at >= self.call
            && matches!(
                (&self.input, output),
                (Input::Put { .. }, Output::Put)
                    | (Input::Get, Output::Get { .. })
                    | (Input::CompareAndSet { .. }, Output::CompareAndSet { .. })
                    | (Input::Delete, Output::Delete { .. })
            )
    }
}

/// Names an operation in the [`History`] that recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(usize);

/// All operations of one run.
///
/// Two ways to fill it: a recorder on one thread calls [`History::begin`] and then at most one of
/// [`History::succeed`] and [`History::fail`]; clients on many threads collect whole [`Operation`]s
/// by a shared clock and hand them over with [`History::push`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    operations: Vec<Operation>,
    /// Latest time given out by `begin` and `succeed`, which must not tie.
    latest: Time,
}

impl History {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a request; its outcome is unknown until told otherwise.
    ///
    /// Events recorded at one moment are kept in the order of these calls (times are moved apart by
    /// 1), so that ties of virtual time do not weaken the check.
    pub fn begin(&mut self, client: u64, key: &[u8], input: Input, now: Time) -> OperationId {
        let call = self.next_time(now);
        let outcome = Outcome::Unknown;
        self.operations.push(Operation { client, key: key.to_vec(), input, call, outcome });
        OperationId(self.operations.len() - 1)
    }

    /// Records the reply. `revision` is the one in its header, where known.
    pub fn succeed(
        &mut self,
        id: OperationId,
        revision: Option<Revision>,
        output: Output,
        now: Time,
    ) {
        let at = self.next_time(now);
        let operation = &mut self.operations[id.0];
        assert!(operation.outcome == Outcome::Unknown, "an operation ends once");
        operation.outcome = Outcome::Ok { at, revision, output };
        assert!(operation.is_well_formed(), "a reply of another kind than the request");
    }

    /// Records that the request certainly had and will have no effect.
    pub fn fail(&mut self, id: OperationId) {
        let operation = &mut self.operations[id.0];
        assert!(operation.outcome == Outcome::Unknown, "an operation ends once");
        operation.outcome = Outcome::Failed;
    }

    /// Adds an operation that was recorded elsewhere.
    pub fn push(&mut self, operation: Operation) {
        assert!(operation.is_well_formed(), "a reply before or unlike its request");
        self.latest = self.latest.max(operation.call).max(operation.returned().unwrap_or(0));
        self.operations.push(operation);
    }

    /// In the order in which they were recorded.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Number of operations that were answered.
    pub fn acknowledged(&self) -> usize {
        self.operations.iter().filter(|operation| operation.returned().is_some()).count()
    }

    /// One JSON object a line; [`History::from_lines`] reads it back.
    pub fn to_lines(&self) -> String {
        crate::history_lines::write(&self.operations)
    }

    /// Reads what [`History::to_lines`] wrote. Empty lines are skipped; fields it does not know are
    /// an error, so that nothing recorded is silently left unchecked.
    pub fn from_lines(text: &str) -> Result<Self, LineError> {
        let mut history = Self::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let refuse = |why: String| LineError { line: number + 1, why };
            let operation = crate::history_lines::parse(line).map_err(refuse)?;
            if !operation.is_well_formed() {
                return Err(refuse("the reply is before or unlike its request".to_owned()));
            }
            history.push(operation);
        }
        Ok(history)
    }

    fn next_time(&mut self, now: Time) -> Time {
        // The first event may happen at 0.
        let floor = if self.operations.is_empty() { 0 } else { self.latest + 1 };
        self.latest = now.max(floor);
        self.latest
    }
}

impl FromIterator<Operation> for History {
    fn from_iter<Operations: IntoIterator<Item = Operation>>(operations: Operations) -> Self {
        let mut history = Self::new();
        operations.into_iter().for_each(|operation| history.push(operation));
        history
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} ", self.client)?;
        match self.returned() {
            Some(at) => write!(f, "[{}..{at}] ", self.call)?,
            None => write!(f, "[{}..] ", self.call)?,
        }
        let key = Bytes(&self.key);
        match &self.input {
            Input::Put { value } => write!(f, "put {key} = {}", Bytes(value))?,
            Input::Get => write!(f, "get {key}")?,
            Input::CompareAndSet { expect: Some(expect), set } => {
                write!(f, "if {key} is {} set {}", Bytes(expect), Bytes(set))?;
            }
            Input::CompareAndSet { expect: None, set } => {
                write!(f, "if {key} is absent set {}", Bytes(set))?;
            }
            Input::Delete => write!(f, "delete {key}")?,
        }
        match &self.outcome {
            Outcome::Unknown => f.write_str(", outcome unknown"),
            Outcome::Failed => f.write_str(", refused"),
            Outcome::Ok { revision, output, .. } => {
                write!(f, ": {output}")?;
                revision.map_or(Ok(()), |revision| write!(f, " at revision {revision}"))
            }
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Put => f.write_str("done"),
            Output::Get { value: None, .. } => f.write_str("absent"),
            Output::Get { value: Some(value), mod_revision: None } => {
                write!(f, "{}", Bytes(value))
            }
            Output::Get { value: Some(value), mod_revision: Some(written) } => {
                write!(f, "{} (written at {written})", Bytes(value))
            }
            Output::CompareAndSet { succeeded: true } => f.write_str("done"),
            Output::CompareAndSet { succeeded: false } => f.write_str("did not hold that"),
            Output::Delete { deleted: true } => f.write_str("done"),
            Output::Delete { deleted: false } => f.write_str("was absent"),
        }
    }
}

/// Keys and values in messages: quoted, escaped, and cut when long.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 48;
        let shown = &self.0[..self.0.len().min(SHOWN_MAX)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, "… ({more} more bytes)"),
        }
    }
}

/// A value that may be absent, in messages.
pub(crate) struct MaybeBytes<'a>(pub(crate) Option<&'a [u8]>);

impl fmt::Display for MaybeBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => Bytes(bytes).fmt(f),
            None => f.write_str("absent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_moment_keep_their_order() {
        let mut history = History::new();
        let put = history.begin(1, b"k", Input::Put { value: b"a".to_vec() }, 0);
        history.succeed(put, None, Output::Put, 0);
        history.begin(1, b"k", Input::Get, 0);

        let [put, get] = history.operations() else { panic!("two operations") };
        assert_eq!(put.call, 0);
        assert!(put.returned().is_some_and(|returned| returned < get.call));
        assert_eq!(get.outcome, Outcome::Unknown);
    }

    #[test]
    #[should_panic(expected = "ends once")]
    fn an_operation_ends_once() {
        let mut history = History::new();
        let put = history.begin(1, b"k", Input::Put { value: b"a".to_vec() }, 0);
        history.succeed(put, None, Output::Put, 5);
        history.fail(put);
    }

    #[test]
    fn operations_read_as_sentences() {
        let operation = Operation {
            client: 3,
            key: b"k".to_vec(),
            input: Input::CompareAndSet { expect: None, set: vec![0xff; 60] },
            call: 7,
            outcome: Outcome::Unknown,
        };
        let text = operation.to_string();
        assert!(text.starts_with("client 3 [7..] if \"k\" is absent set \"\\xff"), "{text}");
        assert!(text.ends_with("… (12 more bytes), outcome unknown"), "{text}");
    }
}
