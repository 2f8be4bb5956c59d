//! The linearizability checker against two independent judges: every order tried by brute force,
//! and porcupine; then against histories known to be good or bad.

use checkers::history::{History, Input, Operation, Outcome, Output, Time};
use checkers::linearizability::{Budget, Verdict, check, check_within};
use proptest::prelude::*;

fn get(value: Option<&str>) -> (Input, Output) {
    let value = value.map(|value| value.as_bytes().to_vec());
    (Input::Get, Output::Get { value, mod_revision: None })
}

fn put(value: &str) -> (Input, Output) {
    (Input::Put { value: value.as_bytes().to_vec() }, Output::Put)
}

fn cas(expect: Option<&str>, set: &str, succeeded: bool) -> (Input, Output) {
    let expect = expect.map(|expect| expect.as_bytes().to_vec());
    let input = Input::CompareAndSet { expect, set: set.as_bytes().to_vec() };
    (input, Output::CompareAndSet { succeeded })
}

fn delete(deleted: bool) -> (Input, Output) {
    (Input::Delete, Output::Delete { deleted })
}

fn answered(call: Time, at: Time, (input, output): (Input, Output)) -> Operation {
    let outcome = Outcome::Ok { at, revision: None, output };
    Operation { client: call, key: b"k".to_vec(), input, call, outcome }
}

fn unanswered(call: Time, (input, _): (Input, Output)) -> Operation {
    let outcome = Outcome::Unknown;
    Operation { client: call, key: b"k".to_vec(), input, call, outcome }
}

fn judge(operations: &[Operation]) -> Verdict {
    check(&operations.iter().cloned().collect())
}

fn is_linearizable(operations: &[Operation]) -> bool {
    match judge(operations) {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        Verdict::Unknown { why } => panic!("a small history cannot be undecided: {why}"),
    }
}

/// Tries every order of every choice of unanswered operations: slow, and too plain to be wrong.
fn brute_force(operations: &[Operation]) -> bool {
    fn apply(operation: &Operation, state: &Option<Vec<u8>>) -> Option<Option<Vec<u8>>> {
        let output = match &operation.outcome {
            Outcome::Ok { output, .. } => Some(output),
            _ => None,
        };
        let (reply, after) = match &operation.input {
            Input::Put { value } => (Output::Put, Some(value.clone())),
            Input::Get => (Output::Get { value: state.clone(), mod_revision: None }, state.clone()),
            Input::CompareAndSet { expect, set } => {
                let succeeded = expect == state;
                let after = if succeeded { Some(set.clone()) } else { state.clone() };
                (Output::CompareAndSet { succeeded }, after)
            }
            Input::Delete => (Output::Delete { deleted: state.is_some() }, None),
        };
        output.is_none_or(|output| *output == reply).then_some(after)
    }
    fn any_order(rest: &[&Operation], state: &Option<Vec<u8>>) -> bool {
        if rest.iter().all(|operation| operation.returned().is_none()) {
            return true;
        }
        (0..rest.len()).any(|index| {
            let mut others = rest.to_vec();
            let first = others.remove(index);
            let someone_was_before = others
                .iter()
                .any(|other| other.returned().is_some_and(|returned| returned < first.call));
            !someone_was_before
                && apply(first, state).is_some_and(|after| any_order(&others, &after))
        })
    }
    let rest = operations.iter().filter(|operation| operation.outcome != Outcome::Failed);
    any_order(&rest.collect::<Vec<_>>(), &None)
}

/// The same register as porcupine wants it. It knows no unanswered operations: they return at the
/// end of time and may do nothing.
#[derive(Clone)]
struct Register;

impl porcupine_rs::Model for Register {
    type State = Option<Vec<u8>>;
    type Op = (Input, Option<Output>, bool);
    type Metadata = ();

    fn init() -> Self::State {
        None
    }

    fn step(state: &Self::State, (input, output, happens): &Self::Op) -> (bool, Self::State) {
        if !happens {
            return (true, state.clone());
        }
        let (reply, after) = match input {
            Input::Put { value } => (Output::Put, Some(value.clone())),
            Input::Get => (Output::Get { value: state.clone(), mod_revision: None }, state.clone()),
            Input::CompareAndSet { expect, set } if expect == state => {
                (Output::CompareAndSet { succeeded: true }, Some(set.clone()))
            }
            Input::CompareAndSet { .. } => {
                (Output::CompareAndSet { succeeded: false }, state.clone())
            }
            Input::Delete => (Output::Delete { deleted: state.is_some() }, None),
        };
        (output.as_ref().is_none_or(|output| *output == reply), after)
    }
}

/// Asks porcupine once for every choice of which unanswered operations happened.
fn porcupine(operations: &[Operation]) -> bool {
    let unanswered = operations.iter().filter(|operation| operation.outcome == Outcome::Unknown);
    (0..1_u32 << unanswered.count()).any(|happened| {
        let mut seen = 0;
        let history = operations.iter().filter(|operation| operation.outcome != Outcome::Failed);
        let history = history.map(|operation| {
            let (output, happens, at) = match &operation.outcome {
                Outcome::Ok { output, at, .. } => (Some(output.clone()), true, *at as i64),
                Outcome::Unknown | Outcome::Failed => {
                    seen += 1;
                    (None, happened >> (seen - 1) & 1 == 1, i64::MAX)
                }
            };
            porcupine_rs::Operation::<Register> {
                client_id: None,
                call_time: operation.call as i64,
                return_time: at,
                op: (operation.input.clone(), output, happens),
                metadata: None,
            }
        });
        porcupine_rs::check_operations(&history.collect::<Vec<_>>())
    })
}

fn any_request() -> impl Strategy<Value = (Input, Output)> {
    let value = || prop::sample::select(vec!["a", "b", "c"]);
    let maybe = || prop::option::of(value());
    prop_oneof![
        3 => value().prop_map(put),
        3 => maybe().prop_map(get),
        2 => (maybe(), value(), any::<bool>())
            .prop_map(|(expect, set, succeeded)| cas(expect, set, succeeded)),
        1 => any::<bool>().prop_map(delete),
    ]
}

fn any_operation(times: u64) -> impl Strategy<Value = Operation> {
    (any_request(), 0..times, 0..times, 0..8_u32).prop_map(|(request, from, to, kind)| match kind {
        0 | 1 => unanswered(from, request),
        2 => Operation { outcome: Outcome::Failed, ..unanswered(from, request) },
        _ => answered(from.min(to), from.max(to), request),
    })
}

/// A request, when it starts, how long until its effect, how long until the reply, its fate.
type Planned = ((Input, Output), u64, u64, u64, u32);

/// Replies of a real register whose operations take effect at `moment`; some replies get lost and,
/// with `lie`, one is a lie.
fn simulated(mut plan: Vec<Planned>, lie: Option<(Input, Output)>) -> Vec<Operation> {
    plan.sort_by_key(|(_, start, before, _, _)| start + before);
    let mut state: Option<Vec<u8>> = None;
    let mut operations = Vec::new();
    for ((input, _), start, before, after, fate) in plan {
        let call = start;
        let at = start + before + after;
        // 0: lost on the way there; 1: lost on the way back.
        let lost = Operation { outcome: Outcome::Unknown, ..answered_put(call, &input) };
        if fate == 0 {
            operations.push(lost);
            continue;
        }
        let output = match &input {
            Input::Put { value } => {
                state = Some(value.clone());
                Output::Put
            }
            Input::Get => Output::Get { value: state.clone(), mod_revision: None },
            Input::CompareAndSet { expect, set } => {
                let succeeded = *expect == state;
                if succeeded {
                    state = Some(set.clone());
                }
                Output::CompareAndSet { succeeded }
            }
            Input::Delete => Output::Delete { deleted: state.take().is_some() },
        };
        operations.push(match fate {
            1 => lost,
            _ => answered(call, at, (input, output)),
        });
    }
    if let Some(lie) = lie {
        operations.push(answered(20, 22, lie));
    }
    operations
}

fn answered_put(call: Time, input: &Input) -> Operation {
    unanswered(call, (input.clone(), Output::Put))
}

fn any_plan(count: usize) -> impl Strategy<Value = Vec<Planned>> {
    let one = (any_request(), 0..40_u64, 0..8_u64, 0..8_u64, 0..8_u32);
    prop::collection::vec(one, 1..count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_brute_force(operations in prop::collection::vec(any_operation(12), 0..8)) {
        prop_assert_eq!(is_linearizable(&operations), brute_force(&operations));
    }

    #[test]
    fn agrees_with_brute_force_on_nearly_good_histories(
        plan in any_plan(7),
        lie in prop::option::of(any_request()),
    ) {
        let operations = simulated(plan, lie);
        prop_assert_eq!(is_linearizable(&operations), brute_force(&operations));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_porcupine(plan in any_plan(16), lie in prop::option::of(any_request())) {
        let operations = simulated(plan, lie);
        prop_assume!(operations.iter().filter(|o| o.outcome == Outcome::Unknown).count() <= 6);
        prop_assert_eq!(is_linearizable(&operations), porcupine(&operations));
    }

    #[test]
    fn what_a_real_register_answers_passes(plan in any_plan(60)) {
        let operations = simulated(plan, None);
        prop_assert!(is_linearizable(&operations), "{}", judge(&operations));
    }

    #[test]
    fn a_window_is_a_violation_by_itself(plan in any_plan(30), lie in any_request()) {
        let operations = simulated(plan, Some(lie));
        if let Verdict::Violation(violation) = judge(&operations) {
            prop_assert!(violation.window.len() <= operations.len());
            for operation in &violation.window {
                prop_assert!(operations.contains(operation));
            }
            prop_assert!(!is_linearizable(&violation.window), "{violation}");
        }
    }
}

fn violation_of(operations: &[Operation]) -> (usize, String) {
    match judge(operations) {
        Verdict::Violation(violation) => (violation.window.len(), violation.to_string()),
        other => panic!("expected a violation, got: {other}"),
    }
}

#[test]
fn a_stale_read_is_found_and_named() {
    let (size, text) = violation_of(&[
        answered(0, 1, put("a")),
        answered(2, 3, get(Some("a"))),
        answered(4, 5, put("b")),
        answered(6, 7, get(Some("b"))),
        answered(8, 9, get(Some("a"))),
        answered(10, 11, put("c")),
    ]);
    assert_eq!(size, 2, "{text}");
    assert!(text.contains("not linearizable on key \"k\""), "{text}");
    assert!(text.contains("whatever the key held before"), "{text}");
    assert!(text.contains("client 8 [8..9] get \"k\": \"a\""), "{text}");
}

#[test]
fn a_lost_update_is_found() {
    let (size, text) = violation_of(&[
        answered(0, 1, put("a")),
        answered(2, 5, cas(Some("a"), "b", true)),
        answered(3, 6, cas(Some("a"), "c", true)),
    ]);
    assert_eq!(size, 2, "{text}");
}

#[test]
fn an_acknowledged_write_that_vanishes_is_found() {
    let (size, text) = violation_of(&[
        answered(0, 1, put("a")),
        answered(2, 3, get(Some("a"))),
        answered(4, 5, get(None)),
    ]);
    assert_eq!(size, 2, "{text}");
}

#[test]
fn a_value_out_of_nowhere_is_named_so() {
    let (size, text) = violation_of(&[answered(0, 1, put("a")), answered(2, 3, get(Some("b")))]);
    assert_eq!(size, 1);
    assert!(text.contains("\"b\" was seen, which nobody ever asked to write"), "{text}");

    let refused = Operation { outcome: Outcome::Failed, ..unanswered(0, put("a")) };
    let (_, text) = violation_of(&[refused, answered(2, 3, get(Some("a")))]);
    assert!(text.contains("which nobody ever asked to write"), "{text}");
}

#[test]
fn a_value_from_the_future_is_named_so() {
    let (size, text) = violation_of(&[answered(5, 6, put("a")), answered(2, 3, get(Some("a")))]);
    assert_eq!(size, 2);
    assert!(text.contains("\"a\" was seen before anybody asked to write it"), "{text}");
}

#[test]
fn a_write_applied_twice_is_found() {
    let (_, text) = violation_of(&[
        answered(0, 1, put("a")),
        answered(2, 3, put("b")),
        answered(4, 5, get(Some("b"))),
        answered(6, 7, get(Some("a"))),
        answered(8, 9, get(Some("a"))),
    ]);
    assert!(text.contains("get \"k\": \"a\""), "{text}");
    // An unanswered write may come late, but only once.
    let once = [unanswered(0, put("a")), answered(2, 3, put("b")), answered(4, 5, get(Some("a")))];
    assert!(is_linearizable(&once));
    let again = [answered(6, 7, put("c")), answered(8, 9, get(Some("a")))];
    assert!(!is_linearizable(&[once.as_slice(), &again].concat()));
}

#[test]
fn a_delete_that_came_back_is_found() {
    let history =
        [answered(0, 1, put("a")), answered(2, 3, delete(true)), answered(4, 5, delete(true))];
    assert_eq!(violation_of(&history).0, 2);
    // Unless somebody may have put it back.
    let resurrected = [history.as_slice(), &[unanswered(0, put("never read"))]].concat();
    assert!(is_linearizable(&resurrected));
}

#[test]
fn unanswered_operations_may_happen_late_or_never_but_not_before_their_call() {
    assert!(is_linearizable(&[unanswered(0, put("a")), answered(1, 2, get(None))]));
    assert!(is_linearizable(&[
        unanswered(0, put("a")),
        answered(1, 2, get(None)),
        answered(3, 4, get(Some("a"))),
    ]));
    assert!(!is_linearizable(&[unanswered(5, put("a")), answered(1, 2, get(Some("a")))]));
}

#[test]
fn a_chain_of_unanswered_operations_explains_what_it_can() {
    let chain = [
        unanswered(0, put("a")),
        unanswered(0, cas(Some("a"), "b", true)),
        unanswered(0, cas(Some("b"), "c", true)),
    ];
    let read = |value| [chain.as_slice(), &[answered(9, 10, get(value))]].concat();
    assert!(is_linearizable(&read(Some("c"))));
    assert!(is_linearizable(&read(None)));
    let broken = [&chain[1..], &[answered(9, 10, get(Some("c")))]].concat();
    assert!(!is_linearizable(&broken));
}

#[test]
fn running_out_of_budget_is_never_a_pass() {
    // Two values are there after all puts. Each is written twice, so that only trying every order
    // shows that this cannot be.
    let values = (0..6).chain(0..6);
    let puts = values.map(|value| answered(0, 100, put(&format!("v{value}"))));
    let reads = ["v0", "v1"].map(|value| answered(101, 102, get(Some(value))));
    let history: History = puts.chain(reads).collect();
    let budget = Budget { configurations: 3, memory_bytes: 1 << 20 };
    let Verdict::Unknown { why } = check_within(&history, budget) else { panic!("decided") };
    assert!(why.contains("gave up on key \"k\""), "{why}");
    let budget = Budget { configurations: 1_000_000, memory_bytes: 10 };
    assert!(matches!(check_within(&history, budget), Verdict::Unknown { .. }));
}

#[test]
fn a_violation_outweighs_giving_up_on_another_key() {
    let mut operations = (0..12)
        .map(|index| answered(0, 100, put(&format!("v{index}"))))
        .chain((0..12).map(|index| answered(0, 100, cas(Some("x"), &format!("w{index}"), false))))
        .collect::<Vec<_>>();
    operations.push(Operation { key: b"z".to_vec(), ..answered(0, 1, get(Some("nothing"))) });
    let budget = Budget { configurations: 1, memory_bytes: 1 << 20 };
    let verdict = check_within(&operations.into_iter().collect(), budget);
    assert!(matches!(verdict, Verdict::Violation(_)), "{verdict}");
}

/// A long run of a correct store under `clients` clients, with a share of replies lost.
struct Run {
    operations: usize,
    clients: u64,
    keys: u64,
    /// One in so many operations is never answered.
    lost_one_in: u64,
    with_revisions: bool,
}

impl Run {
    fn history(&self) -> Vec<Operation> {
        let mut random = Random(42);
        let mut states: Vec<Option<Vec<u8>>> = vec![None; self.keys as usize];
        let mut free_at = vec![0_u64; self.clients as usize];
        let mut revision = 1;
        let mut plan = Vec::new();
        for number in 0..self.operations {
            let client = random.below(self.clients);
            let call = free_at[client as usize] + random.below(20);
            let effect = call + random.below(200);
            let at = effect + random.below(200);
            free_at[client as usize] = at + 1;
            plan.push((effect, number, client, call, at));
        }
        plan.sort_unstable();
        let mut operations = Vec::new();
        for (_, number, client, call, at) in plan {
            let key = random.below(self.keys);
            let state = &mut states[key as usize];
            let value = format!("v{number}").into_bytes();
            let (input, output) = match random.below(10) {
                0..5 => (Input::Put { value }, Output::Put),
                5..8 => (Input::Get, Output::Get { value: state.clone(), mod_revision: None }),
                _ => {
                    let guess = random.below(2) == 0;
                    let expect = if guess { state.clone() } else { Some(b"no".to_vec()) };
                    let succeeded = expect == *state;
                    (
                        Input::CompareAndSet { expect, set: value },
                        Output::CompareAndSet { succeeded },
                    )
                }
            };
            let lost = random.below(self.lost_one_in) == 0;
            let happened = !lost || random.below(2) == 0;
            if happened {
                let before = state.clone();
                match (&input, &output) {
                    (Input::Put { value }, _) => *state = Some(value.clone()),
                    (
                        Input::CompareAndSet { set, .. },
                        Output::CompareAndSet { succeeded: true },
                    ) => *state = Some(set.clone()),
                    _ => {}
                }
                revision += u64::from(*state != before);
            }
            let known = self.with_revisions.then_some(revision);
            let outcome = match lost {
                true => Outcome::Unknown,
                false => Outcome::Ok { at, revision: known, output },
            };
            let key = format!("k{key}").into_bytes();
            operations.push(Operation { client, key, input, call, outcome });
        }
        operations
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn long_histories_take_little_effort() {
    for with_revisions in [false, true] {
        let runs = [
            Run { operations: 10_000, clients: 16, keys: 50, lost_one_in: 50, with_revisions },
            Run { operations: 10_000, clients: 8, keys: 10, lost_one_in: 100, with_revisions },
            Run { operations: 10_000, clients: 16, keys: 1, lost_one_in: 1_000, with_revisions },
        ];
        for run in runs {
            let good = run.history();
            // Effort is counted, so that a slow machine does not fail the test.
            let budget = Budget { configurations: 60_000, memory_bytes: 64 << 20 };
            let verdict = check_within(&good.iter().cloned().collect(), budget);
            assert_eq!(verdict, Verdict::Linearizable, "{verdict}");

            let mut bad = good;
            let target = bad.iter().rposition(|operation| {
                matches!(
                    operation.outcome,
                    Outcome::Ok { output: Output::Get { value: Some(_), .. }, .. }
                )
            });
            let target = target.expect("somebody read something");
            let stale = bad[..target / 2].iter().rev().find_map(|operation| {
                let same_key = operation.key == bad[target].key;
                operation.acknowledged_write().filter(|_| same_key).map(|v| v.map(<[u8]>::to_vec))
            });
            if let Outcome::Ok { output: Output::Get { value, .. }, .. } = &mut bad[target].outcome
            {
                *value = stale.expect("the key had been written");
            }
            let verdict = check_within(&bad.into_iter().collect(), budget);
            let Verdict::Violation(violation) = verdict else { panic!("missed: {verdict}") };
            assert!(violation.window.len() <= 4, "{violation}");
        }
    }
}
