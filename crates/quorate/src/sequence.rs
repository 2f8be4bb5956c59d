//! `quorate sequence`: prints a number that nobody else gets.

use crate::Failure;
use crate::arguments::SequenceOptions;

/// Takes the next number of a sequence and prints it.
pub(crate) fn run(options: &SequenceOptions) -> Result<(), Failure> {
    if options.name.is_empty() {
        return Err(Failure::Usage("a sequence has a name".to_owned()));
    }
    let access = options.access.access()?;
    let next = harness::sequence::next(&access, &options.endpoints, &options.name);
    crate::say(crate::on_one_thread(next)?);
    Ok(())
}
