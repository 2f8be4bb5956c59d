//! `quorate status`: where every member stands.

use harness::status_report;

use crate::Failure;
use crate::arguments::StatusOptions;

/// Prints the table or the JSON; a member that does not answer makes it a failure, too.
pub(crate) fn run(options: &StatusOptions) -> Result<(), Failure> {
    let access = options.access.access()?;
    let report = crate::on_one_thread(status_report::collect(&access, &options.endpoints))?;
    if options.json {
        crate::say(report.to_json());
    } else {
        crate::say(report.to_string().trim_end());
    }
    report.shortcoming().map_or(Ok(()), |sentence| Err(Failure::Failed(sentence)))
}
