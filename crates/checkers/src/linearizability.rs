//! Linearizability: every operation takes effect at one moment between its call and its reply.
//!
//! Linearizability is local (Herlihy & Wing, 1990, theorem 1), so each key is judged on its own.
//! An operation of unknown outcome may take effect at any time after its call, or never; one that
//! was refused never does. A search that runs out of budget is [`Verdict::Unknown`], never a pass.
//!
//! Used by Jepsen (Knossos), porcupine, FoundationDB's and etcd's tests.
//!
//! Not here: the search itself (`wing_gong`), order across keys (`revision_order`).

use std::collections::BTreeMap;
use std::fmt;

use crate::failing_window;
use crate::history::{Bytes, History, Input, MaybeBytes, Operation, Outcome, Output, Time};
use crate::wing_gong::{self, ABSENT, Event, Finding, Step, Value};

/// What the history of one run shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some order explains every reply.
    Linearizable,
    /// None does: the service is wrong.
    Violation(Box<Violation>),
    /// The search was given up; this is not a pass.
    Unknown {
        /// What it stumbled over, in plain words.
        why: String,
    },
}

/// The shortest part of the history that no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: Vec<u8>,
    /// The operations that contradict each other, by time of call. Each one is needed.
    pub window: Vec<Operation>,
    /// What is wrong with them: one plain sentence.
    pub why: String,
}

/// How much a check may cost per key. Counted, not timed, so that a verdict is reproducible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Configurations (operations done, value) that may be visited.
    pub configurations: u64,
    /// Memory that the visited configurations may take, roughly.
    pub memory_bytes: usize,
}

impl Default for Budget {
    /// A few seconds and a quarter of a gigabyte for the worst key; honest histories of a few
    /// thousand operations per key need a ten-thousandth of it.
    fn default() -> Self {
        Budget { configurations: 2_000_000, memory_bytes: 256 << 20 }
    }
}

/// Judges a history under the default [`Budget`]. Keys are absent at first.
pub fn check(history: &History) -> Verdict {
    check_within(history, Budget::default())
}

/// Judges a history. Keys are absent at first.
///
/// A violation on one key outweighs giving up on another.
pub fn check_within(history: &History, budget: Budget) -> Verdict {
    let mut keys: BTreeMap<&[u8], Vec<&Operation>> = BTreeMap::new();
    for operation in history.operations() {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut undecided = None;
    for (key, operations) in keys {
        let register = Register::new(operations);
        if let Some(violation) = register.obvious_violation() {
            return Verdict::Violation(Box::new(violation));
        }
        match wing_gong::search(&register.events, ABSENT, budget) {
            Finding::Linearizable => {}
            Finding::Impossible => {
                return Verdict::Violation(Box::new(register.explain()));
            }
            Finding::OutOfBudget => {
                undecided.get_or_insert_with(|| register.gave_up(key, budget));
            }
        }
    }
    undecided.map_or(Verdict::Linearizable, |why| Verdict::Unknown { why })
}

/// The operations on one key that can matter, beside the steps they stand for.
struct Register<'a> {
    operations: Vec<&'a Operation>,
    events: Vec<Event>,
}

impl<'a> Register<'a> {
    fn new(mut of_key: Vec<&'a Operation>) -> Self {
        of_key.sort_by_key(|operation| operation.call);
        let mut values = Values::default();
        let mut operations = Vec::new();
        let mut events = Vec::new();
        for operation in of_key {
            let Some(step) = values.step(operation) else { continue };
            operations.push(operation);
            events.push(Event {
                step,
                call: operation.call,
                returned: operation.returned(),
                revision: operation.header_revision(),
            });
        }
        Register { operations, events }
    }

    /// A value seen before anybody asked to write it needs no search, and has a plainer name.
    fn obvious_violation(&self) -> Option<Violation> {
        let mut first_written: BTreeMap<Value, Time> = BTreeMap::from([(ABSENT, 0)]);
        for event in &self.events {
            if let Some(value) = event.step.written() {
                // By time of call, so the first one stays.
                first_written.entry(value).or_insert(event.call);
            }
        }
        let too_early = |event: &Event| {
            let (Some(value), Some(returned)) = (event.step.required(), event.returned) else {
                return false;
            };
            first_written.get(&value).is_none_or(|written| *written > returned)
        };
        let index = self.events.iter().position(too_early)?;
        let seen = self.operations[index];
        let value = match (&seen.input, &seen.outcome) {
            (Input::CompareAndSet { expect, .. }, _) => expect.as_deref(),
            (_, Outcome::Ok { output: Output::Get { value, .. }, .. }) => value.as_deref(),
            _ => None,
        };
        let value = MaybeBytes(value);
        let required = self.events[index].step.required();
        let writer = self.events.iter().position(|event| event.step.written() == required);
        let why = match writer {
            Some(_) => format!("{value} was seen before anybody asked to write it"),
            None => format!("{value} was seen, which nobody ever asked to write"),
        };
        let window = writer.into_iter().chain([index]).map(|i| self.operations[i].clone());
        let mut window = window.collect::<Vec<_>>();
        window.sort_by_key(|operation| operation.call);
        Some(Violation { key: seen.key.clone(), window, why })
    }

    fn explain(&self) -> Violation {
        let window = failing_window::find(&self.events, ABSENT);
        let mut why =
            "no order of these operations, each at one moment between its call and its reply, \
             explains the replies"
                .to_owned();
        if window.from_any_value {
            why.push_str(", whatever the key held before them");
        }
        if window.uncertain > 0 {
            let others = window.uncertain;
            why.push_str(&format!(
                "; {others} other writes that may have taken effect do not help"
            ));
        }
        let operations = window.certain.iter().map(|index| self.operations[*index].clone());
        let key = self.operations[0].key.clone();
        Violation { key, window: operations.collect(), why }
    }

    fn gave_up(&self, key: &[u8], budget: Budget) -> String {
        let uncertain = self.events.iter().filter(|event| event.returned.is_none()).count();
        format!(
            "gave up on key {} after {} configurations or {} bytes: {} operations, {uncertain} of \
             them of unknown outcome",
            Bytes(key),
            budget.configurations,
            budget.memory_bytes,
            self.events.len(),
        )
    }
}

/// Numbers the values of one key.
#[derive(Default)]
struct Values<'a> {
    numbers: BTreeMap<&'a [u8], Value>,
}

impl<'a> Values<'a> {
    /// What the operation stands for; `None` if it tells nothing.
    fn step(&mut self, operation: &'a Operation) -> Option<Step> {
        match (&operation.input, &operation.outcome) {
            (_, Outcome::Failed) | (Input::Get, Outcome::Unknown) => None,
            (Input::Put { value }, _) => Some(Step::Write(self.number(Some(value)))),
            (Input::Delete, Outcome::Unknown) => Some(Step::Write(ABSENT)),
            (Input::CompareAndSet { expect, .. }, Outcome::Ok { output, .. })
                if *output == (Output::CompareAndSet { succeeded: false }) =>
            {
                Some(Step::ReadOther(self.number(expect.as_deref())))
            }
            (Input::CompareAndSet { expect, set }, _) => Some(Step::Swap {
                expect: self.number(expect.as_deref()),
                set: self.number(Some(set)),
            }),
            (_, Outcome::Ok { output, .. }) => match output {
                Output::Get { value, .. } => Some(Step::Read(self.number(value.as_deref()))),
                Output::Delete { deleted: true } => Some(Step::Remove),
                Output::Delete { deleted: false } => Some(Step::Read(ABSENT)),
                Output::Put | Output::CompareAndSet { .. } => {
                    unreachable!("a history holds replies of their request's kind only")
                }
            },
        }
    }

    fn number(&mut self, value: Option<&'a [u8]>) -> Value {
        let Some(value) = value else { return ABSENT };
        let next = Value::try_from(self.numbers.len() + 1).expect("fewer values than 2^32");
        *self.numbers.entry(value).or_insert(next)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Linearizable => f.write_str("linearizable"),
            Verdict::Violation(violation) => violation.fmt(f),
            Verdict::Unknown { why } => write!(f, "linearizability undecided: {why}"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not linearizable on key {}: {}", Bytes(&self.key), self.why)?;
        self.window.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}
