//! A command line that was written for etcd: called by the name of `etcd`, or with its flags after
//! `start`.
//!
//! Not here: what each flag means (`node::translate`).

use std::ffi::OsString;
use std::path::Path;

/// The arguments in our words, and what is to be said about those that were left out.
pub(crate) fn understand(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(Vec<OsString>, Vec<String>), String> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_else(|| "quorate".into());
    let mut rest: Vec<OsString> = arguments.collect();
    // A link of that name, or a renamed binary, in place of the real one.
    if Path::new(&program).file_name() == Some("etcd".as_ref()) {
        rest.insert(0, "start".into());
    }
    let starts = rest.first().is_some_and(|task| task == "start" || task == "join");
    let text: Option<Vec<String>> =
        rest.iter().map(|argument| argument.to_str().map(str::to_owned)).collect();
    // What is not text holds no flag of etcd's; the parser says what it thinks of it.
    let (true, Some(text)) = (starts, text) else {
        return Ok(([vec![program], rest].concat(), Vec::new()));
    };
    let translated = node::translate(text)?;
    let arguments = translated.arguments.into_iter().map(OsString::from);
    Ok((std::iter::once(program).chain(arguments).collect(), translated.notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(line: &str) -> (Vec<OsString>, Vec<String>) {
        understand(line.split(' ').map(OsString::from)).expect("sound")
    }

    #[test]
    fn called_as_etcd_it_starts_a_node() {
        let (arguments, notes) = understood("/usr/bin/etcd --name n1 --snapshot-count=5");
        assert_eq!(arguments, ["/usr/bin/etcd", "start", "--name=n1"]);
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn other_tasks_keep_their_words() {
        let (arguments, _) = understood("quorate dev --name n1");
        assert_eq!(arguments, ["quorate", "dev", "--name", "n1"]);
    }
}
