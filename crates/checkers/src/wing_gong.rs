//! Wing & Gong search: is there an order of these steps on one register that explains all results?
//!
//! Depth first over the orders that real time allows (Wing & Gong, 1993), never entering a
//! configuration (steps done, value) twice (Lowe, 2017), with the links of the event list taken out
//! and put back as steps are done and undone. Four reductions keep real histories near linear; each
//! says why it loses no order:
//!
//! - *A step that only reads is done as soon as it fits.* Whatever order works later works with
//!   the read moved here.
//! - *An uncertain write is placed only right before a step that looks at its effect.* Elsewhere
//!   nobody would notice if it had never happened, which is allowed.
//! - *A value that is still to be read and has no writer left is not overwritten.*
//! - *Values that nobody asks for by name are one value; equal uncertain writes are used in the
//!   order of their calls.*
//!
//! The order of tries follows revisions where they are known; that changes the time it takes, never
//! the answer.
//!
//! Not here: what can be refuted without a search (`forward_zones`), partition by key and verdicts
//! (`linearizability`), explanation (`failing_window`).

use std::collections::{BTreeMap, BTreeSet};

use crate::forward_zones;
use crate::history::{Revision, Time};
use crate::linearizability::Budget;

/// An interned value of the register.
pub(crate) type Value = u32;

/// The key does not exist.
pub(crate) const ABSENT: Value = 0;

/// What an operation demands of the register and does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Whatever it was, it is now this.
    Write(Value),
    /// It is this.
    Read(Value),
    /// It is not this.
    ReadOther(Value),
    /// It was `expect` and is now `set`.
    Swap { expect: Value, set: Value },
    /// It was there and is now absent.
    Remove,
}

impl Step {
    /// The value after the step; `None` if it does not fit.
    fn apply(self, state: Value) -> Option<Value> {
        match self {
            Step::Write(value) => Some(value),
            Step::Read(value) => (state == value).then_some(state),
            Step::ReadOther(value) => (state != value).then_some(state),
            Step::Swap { expect, set } => (state == expect).then_some(set),
            Step::Remove => (state != ABSENT).then_some(ABSENT),
        }
    }

    /// The one value under which it fits.
    pub(crate) fn required(self) -> Option<Value> {
        match self {
            Step::Read(value) | Step::Swap { expect: value, .. } => Some(value),
            Step::Write(_) | Step::ReadOther(_) | Step::Remove => None,
        }
    }

    /// The value it leaves behind.
    pub(crate) fn written(self) -> Option<Value> {
        match self {
            Step::Write(value) | Step::Swap { set: value, .. } => Some(value),
            Step::Remove => Some(ABSENT),
            Step::Read(_) | Step::ReadOther(_) => None,
        }
    }

    /// The step if nobody knows whether it happened; `None` if that does not matter.
    pub(crate) fn uncertain(self) -> Option<Step> {
        match self {
            Step::Write(_) | Step::Swap { .. } => Some(self),
            // Deleting what is absent has no effect, so the outcome need not be told apart.
            Step::Remove => Some(Step::Write(ABSENT)),
            Step::Read(_) | Step::ReadOther(_) => None,
        }
    }

    /// Fits under many values, but not under all.
    fn looks_without_naming(self) -> bool {
        matches!(self, Step::ReadOther(_) | Step::Remove)
    }

    fn with_values(self, rename: impl Fn(Value) -> Value) -> Step {
        match self {
            Step::Write(value) => Step::Write(rename(value)),
            Step::Read(value) => Step::Read(rename(value)),
            Step::ReadOther(value) => Step::ReadOther(rename(value)),
            Step::Swap { expect, set } => Step::Swap { expect: rename(expect), set: rename(set) },
            Step::Remove => Step::Remove,
        }
    }
}

/// A step and the time in which it happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) step: Step,
    pub(crate) call: Time,
    /// `None`: it happened at any time after the call, or never.
    pub(crate) returned: Option<Time>,
    /// A hint only.
    pub(crate) revision: Option<Revision>,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// An order exists.
    Linearizable,
    /// None exists.
    Impossible,
    /// The budget ran out first.
    OutOfBudget,
}

/// Searches an order of `events` for a register that holds `initial` first.
pub(crate) fn search(events: &[Event], initial: Value, budget: Budget) -> Finding {
    if forward_zones::refute(events, initial) {
        return Finding::Impossible;
    }
    Search::new(events, initial).run(budget)
}

/// What a node of the search may do next.
#[derive(Clone, Copy)]
enum Choice {
    Certain(usize),
    Uncertain(usize),
}

/// A node of the search: what is left to try, and how to take back what was tried.
struct Node {
    /// The best one last.
    choices: Vec<Choice>,
    /// Certain steps done since this node was reached, in order.
    done: Vec<usize>,
    used: Option<usize>,
    state: Value,
    owed: bool,
}

struct Uncertain {
    step: Step,
    call: Time,
}

struct Search {
    /// By time of call.
    certain: Vec<Event>,
    /// By time of call; never `Read` or `ReadOther`.
    uncertain: Vec<Uncertain>,
    /// For each certain step, how eagerly to try it: lower first.
    rank: Vec<u64>,
    /// For each certain step, the last one called before it returned.
    reach: Vec<usize>,
    links: Links,
    done: Bits,
    done_count: usize,
    used: Bits,
    state: Value,
    /// The last step was an uncertain write: the next must look at its effect.
    owed: bool,
    /// Per value: certain steps, not done, that fit under no other.
    wanted: Vec<u32>,
    /// Per value: steps, not done or used, that write it.
    writers: Vec<u32>,
}

impl Search {
    fn new(events: &[Event], initial: Value) -> Self {
        let Reduced { certain, uncertain, initial, values } = Reduced::new(events, initial);
        let mut wanted = vec![0; values];
        let mut writers = vec![0; values];
        for event in &certain {
            event.step.required().into_iter().for_each(|value| wanted[value as usize] += 1);
        }
        let steps = certain.iter().map(|event| event.step);
        for step in steps.chain(uncertain.iter().map(|uncertain| uncertain.step)) {
            step.written().into_iter().for_each(|value| writers[value as usize] += 1);
        }

        let mut calls = certain.iter().map(|event| event.call).collect::<Vec<_>>();
        calls.sort_unstable();
        let returned = |event: &Event| event.returned.expect("a certain step has returned");
        let reach = certain
            .iter()
            .map(|event| calls.partition_point(|call| *call <= returned(event)) - 1)
            .collect();
        let writes = || certain.iter().filter(|event| event.step.written().is_some());
        let rank = match writes().all(|event| event.revision.is_some()) {
            true => certain.iter().map(|event| event.revision.unwrap_or(0)).collect(),
            false => certain.iter().map(returned).collect(),
        };
        Search {
            rank,
            reach,
            links: Links::new(&certain),
            done: Bits::new(certain.len()),
            done_count: 0,
            used: Bits::new(uncertain.len()),
            state: initial,
            owed: false,
            wanted,
            writers,
            certain,
            uncertain,
        }
    }

    fn run(&mut self, budget: Budget) -> Finding {
        let mut seen = BTreeSet::new();
        let mut seen_bytes = 0;
        let mut path: Vec<Node> = Vec::new();
        // Reads that fit at the very start are never taken back.
        self.do_fitting_reads(&mut Vec::new());
        loop {
            if self.done_count == self.certain.len() {
                return Finding::Linearizable;
            }
            let configuration = self.configuration();
            let bytes = size_of_val(&*configuration) + 2 * size_of::<Box<[u64]>>();
            if seen.insert(configuration) {
                seen_bytes += bytes;
                if seen.len() as u64 > budget.configurations || seen_bytes > budget.memory_bytes {
                    return Finding::OutOfBudget;
                }
                path.push(Node {
                    choices: self.choices(),
                    done: Vec::new(),
                    used: None,
                    state: self.state,
                    owed: self.owed,
                });
            }
            // Take back what the last node tried and try its next choice, or give it up.
            loop {
                let Some(node) = path.last_mut() else { return Finding::Impossible };
                self.take_back(node);
                match node.choices.pop() {
                    Some(choice) if self.take(choice, node) => break,
                    Some(_) => {}
                    None => drop(path.pop()),
                }
            }
        }
    }

    /// Steps done, uncertain steps used, value: all that the rest of the search depends on.
    ///
    /// Every step before the first undone one is done, and none beyond its reach is.
    fn configuration(&self) -> Box<[u64]> {
        let first = self.links.first().expect("something is left to do").step();
        let window = self.done.words(first, self.reach[first]);
        let state = u64::from(self.state) << 1 | u64::from(self.owed);
        let head = [first as u64, state];
        head.iter().chain(window).chain(&self.used.0).copied().collect()
    }

    fn choices(&self) -> Vec<Choice> {
        let mut certain = Vec::new();
        let mut entry = self.links.first();
        while let Some(Entry::Call(index)) = entry {
            let step = self.certain[index].step;
            let blind = matches!(step, Step::Write(_));
            // Reads that fit have been done already.
            if step.apply(self.state).is_some() && !(self.owed && blind) {
                certain.push(index);
            }
            entry = self.links.after(Entry::Call(index));
        }
        let Some(Entry::Return(first_returned)) = entry else { unreachable!("calls return") };
        certain.sort_by_key(|index| (std::cmp::Reverse(self.rank[*index]), *index));

        let limit = self.certain[first_returned].returned.unwrap_or(Time::MAX);
        let mut tried = BTreeSet::new();
        let mut choices = Vec::new();
        for (index, uncertain) in self.uncertain.iter().enumerate() {
            if uncertain.call > limit {
                break;
            }
            let blind = matches!(uncertain.step, Step::Write(_));
            let after = uncertain.step.apply(self.state);
            if self.used.get(index) || (self.owed && blind) || after.is_none_or(|v| v == self.state)
            {
                continue;
            }
            if tried.insert(uncertain.step) {
                choices.push(Choice::Uncertain(index));
            }
        }
        choices.extend(certain.into_iter().map(Choice::Certain));
        choices
    }

    /// Returns false if that cannot lead anywhere; `node` knows how to take it back all the same.
    fn take(&mut self, choice: Choice, node: &mut Node) -> bool {
        let before = self.state;
        let step = match choice {
            Choice::Certain(index) => {
                self.mark_done(index);
                node.done.push(index);
                self.owed = false;
                self.certain[index].step
            }
            Choice::Uncertain(index) => {
                self.used.set(index);
                node.used = Some(index);
                self.owed = true;
                let step = self.uncertain[index].step;
                step.written().into_iter().for_each(|value| self.writers[value as usize] -= 1);
                step
            }
        };
        self.state = step.apply(before).expect("only steps that fit are chosen");
        let (wanted, writers) = (self.wanted[before as usize], self.writers[before as usize]);
        if self.state != before && wanted > 0 && writers == 0 {
            return false;
        }
        self.do_fitting_reads(&mut node.done);
        true
    }

    fn take_back(&mut self, node: &mut Node) {
        while let Some(index) = node.done.pop() {
            self.mark_undone(index);
        }
        if let Some(index) = node.used.take() {
            self.used.clear(index);
            let written = self.uncertain[index].step.written();
            written.into_iter().for_each(|value| self.writers[value as usize] += 1);
        }
        (self.state, self.owed) = (node.state, node.owed);
    }

    fn do_fitting_reads(&mut self, done: &mut Vec<usize>) {
        let mut entry = self.links.first();
        while let Some(Entry::Call(index)) = entry {
            let step = self.certain[index].step;
            if step.written().is_none() && step.apply(self.state).is_some() {
                self.mark_done(index);
                done.push(index);
                self.owed = false;
            }
            // The link of a step just done still leads to what followed it.
            entry = self.links.after(Entry::Call(index));
        }
    }

    fn mark_done(&mut self, index: usize) {
        self.links.remove(index);
        self.done.set(index);
        self.done_count += 1;
        let step = self.certain[index].step;
        step.required().into_iter().for_each(|value| self.wanted[value as usize] -= 1);
        step.written().into_iter().for_each(|value| self.writers[value as usize] -= 1);
    }

    fn mark_undone(&mut self, index: usize) {
        self.links.restore(index);
        self.done.clear(index);
        self.done_count -= 1;
        let step = self.certain[index].step;
        step.required().into_iter().for_each(|value| self.wanted[value as usize] += 1);
        step.written().into_iter().for_each(|value| self.writers[value as usize] += 1);
    }
}

/// The steps that matter, with the values that are asked for by name numbered densely.
struct Reduced {
    certain: Vec<Event>,
    uncertain: Vec<Uncertain>,
    initial: Value,
    values: usize,
}

impl Reduced {
    fn new(events: &[Event], initial: Value) -> Self {
        let mut events = events.to_vec();
        events.sort_by_key(|event| (event.call, event.returned));
        let (certain, uncertain): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|event| event.returned.is_some());

        let mut named = certain.iter().filter_map(|event| event.step.required()).collect();
        let uncertain = keep_noticeable(&certain, uncertain, &mut named);
        named.extend(certain.iter().filter_map(|event| match event.step {
            Step::ReadOther(value) => Some(value),
            _ => None,
        }));
        named.insert(ABSENT);

        let number = |index: usize| Value::try_from(index).expect("fewer values than 2^32");
        let numbers: BTreeMap<Value, Value> =
            named.iter().enumerate().map(|(index, value)| (*value, number(index))).collect();
        let nameless = number(numbers.len());
        let rename = |value: Value| numbers.get(&value).copied().unwrap_or(nameless);
        assert!(rename(ABSENT) == ABSENT, "the smallest value stays the smallest");

        let rename_event = |event: Event| Event { step: event.step.with_values(rename), ..event };
        let uncertain = uncertain.into_iter().map(rename_event);
        Reduced {
            certain: certain.into_iter().map(rename_event).collect(),
            uncertain: uncertain
                .map(|event| Uncertain { step: event.step, call: event.call })
                .collect(),
            initial: rename(initial),
            values: numbers.len() + 1,
        }
    }
}

/// Drops uncertain writes whose effect no step can look at; adds to `named` the values that the
/// others ask for.
fn keep_noticeable(
    certain: &[Event],
    uncertain: Vec<Event>,
    named: &mut BTreeSet<Value>,
) -> Vec<Event> {
    let any_is_noticed = certain.iter().any(|event| event.step.looks_without_naming());
    let mut kept = Vec::new();
    let mut rest = uncertain
        .into_iter()
        .filter_map(|event| Some(Event { step: event.step.uncertain()?, ..event }))
        .collect::<Vec<_>>();
    loop {
        let (noticed, unnoticed): (Vec<Event>, Vec<Event>) = rest.into_iter().partition(|event| {
            any_is_noticed || event.step.written().is_some_and(|value| named.contains(&value))
        });
        if noticed.is_empty() {
            break;
        }
        // An uncertain swap that matters looks at what was before it.
        named.extend(noticed.iter().filter_map(|event| event.step.required()));
        kept.extend(noticed);
        rest = unnoticed;
    }
    kept.sort_by_key(|event| event.call);
    kept
}

/// A call or a return in the list of events, by index of its certain step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Call(usize),
    Return(usize),
}

impl Entry {
    fn step(self) -> usize {
        match self {
            Entry::Call(index) | Entry::Return(index) => index,
        }
    }
}

/// Calls and returns of the undone certain steps by time, as a list from which steps are taken out
/// and, in reverse order, put back (Knuth's dancing links).
struct Links {
    /// Position in the list of `Call(index)` is 2 × index, of `Return(index)` one more; the last
    /// position is the head.
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Links {
    fn new(certain: &[Event]) -> Self {
        let calls = certain.iter().enumerate().map(|(i, event)| (event.call, false, 2 * i));
        let returns = certain.iter().enumerate().map(|(i, event)| {
            (event.returned.expect("a certain step has returned"), true, 2 * i + 1)
        });
        // At one moment calls come first: such operations are concurrent.
        let mut order = calls.chain(returns).collect::<Vec<_>>();
        order.sort_unstable();
        let head = order.len();
        let mut links = Links { next: vec![head; head + 1], previous: vec![head; head + 1] };
        let mut last = head;
        for (_, _, position) in order {
            (links.next[last], links.previous[position]) = (position, last);
            last = position;
        }
        (links.next[last], links.previous[head]) = (head, last);
        links
    }

    fn first(&self) -> Option<Entry> {
        self.entry(self.next[self.next.len() - 1])
    }

    fn after(&self, entry: Entry) -> Option<Entry> {
        self.entry(self.next[Self::position(entry)])
    }

    fn remove(&mut self, index: usize) {
        // The return first, so that the call's link skips it.
        for position in [2 * index + 1, 2 * index] {
            let (previous, next) = (self.previous[position], self.next[position]);
            (self.next[previous], self.previous[next]) = (next, previous);
        }
    }

    fn restore(&mut self, index: usize) {
        for position in [2 * index, 2 * index + 1] {
            let (previous, next) = (self.previous[position], self.next[position]);
            (self.next[previous], self.previous[next]) = (position, position);
        }
    }

    fn position(entry: Entry) -> usize {
        match entry {
            Entry::Call(index) => 2 * index,
            Entry::Return(index) => 2 * index + 1,
        }
    }

    fn entry(&self, position: usize) -> Option<Entry> {
        let head = self.next.len() - 1;
        match (position == head, position % 2) {
            (true, _) => None,
            (false, 0) => Some(Entry::Call(position / 2)),
            (false, _) => Some(Entry::Return(position / 2)),
        }
    }
}

struct Bits(Vec<u64>);

impl Bits {
    fn new(count: usize) -> Self {
        Bits(vec![0; count.div_ceil(64)])
    }

    fn get(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn clear(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    /// The words that hold the bits `first..=last`.
    fn words(&self, first: usize, last: usize) -> &[u64] {
        &self.0[first / 64..=last / 64]
    }
}
