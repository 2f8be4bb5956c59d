//! Ten seeds on every `cargo test`: whole clusters under faults, at least a simulated minute each.
//! More run in `cargo xtask ci` and by `quorate sim`.

use simulator::{Feature, Mark, Options, run_seed, run_seeds};

fn run(seeds: std::ops::Range<u64>) {
    let totals = run_seeds(seeds, &Options::default(), |report| {
        println!("{report}");
        assert!(report.violation.is_none(), "seed {} failed", report.seed);
        assert!(report.simulated_seconds >= 60, "a run of {} s", report.simulated_seconds);
        assert!(report.acknowledged >= 1_000, "only {} acknowledged", report.acknowledged);
        assert!(report.operations >= 100 * report.simulated_seconds, "too few operations");
    });
    println!("{totals}");
    assert!(totals.failed.is_empty());
}

#[test]
fn seeds_0_to_4() {
    run(0..5);
}

#[test]
fn seeds_5_to_9() {
    run(5..10);
}

/// Members are replaced for good, whatever else a seed draws.
#[test]
fn members_are_replaced_under_load() {
    const MEMBERSHIP: &[Feature] = &[Feature::Membership];
    let options =
        Options { features: Some(MEMBERSHIP.iter().copied().collect()), ..Options::default() };
    let totals = run_seeds(100..103, &options, |report| {
        println!("{report}");
        assert!(report.violation.is_none(), "seed {} failed", report.seed);
    });
    assert!(totals.marks.count(Mark::MemberReplaced) > 0, "{totals}");
}

/// Nothing but the seed decides: a second run is the same run, event by event.
#[test]
fn a_seed_repeats_itself() {
    for seed in [1, 6] {
        let first = run_seed(seed, &Options::default());
        let second = run_seed(seed, &Options::default());
        assert_eq!(first, second, "seed {seed}");
    }
}
