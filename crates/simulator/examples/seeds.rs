//! Seeds without any bug, one after the other, and what they went through.
//!
//! `cargo run --release -p simulator --example seeds -- FROM TO`: as `quorate sim` does, with the
//! whole table of marks.

use simulator::{Options, run_seeds};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().ok());
    let (from, to) = (arguments.next().flatten(), arguments.next().flatten());
    let (Some(from), Some(to)) = (from, to) else { return eprintln!("say FROM and TO") };
    let totals = run_seeds(from..to, &Options::default(), |report| {
        if report.violation.is_some() {
            println!("{report}");
        }
    });
    println!("{}{totals}", totals.marks.table());
}
