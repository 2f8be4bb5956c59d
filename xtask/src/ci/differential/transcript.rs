//! What a script printed, command by command, and where two transcripts part.

/// One command and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The line after `$ `, and what the command was given to read.
    command: Vec<String>,
    /// Everything up to the next command.
    said: Vec<String>,
}

/// Splits a transcript at its commands.
pub(super) fn parse(text: &str) -> Result<Vec<Record>, String> {
    let mut records: Vec<Record> = Vec::new();
    for line in text.lines() {
        match records.last_mut() {
            _ if line.starts_with("$ ") => {
                records.push(Record { command: vec![line.to_owned()], said: Vec::new() });
            }
            Some(record) if line.starts_with("< ") && record.said.is_empty() => {
                record.command.push(line.to_owned());
            }
            Some(record) => record.said.push(line.to_owned()),
            None => return Err(format!("the transcript begins with {line:?}, not a command")),
        }
    }
    Ok(records)
}

/// Each command that said something else, as its own lines, then the lines that part: `-` what etcd
/// said, `+` what Quorate said.
pub(super) fn differences(theirs: &[Record], ours: &[Record]) -> Result<Vec<Vec<String>>, String> {
    let mut found: Vec<Vec<String>> = Vec::new();
    for (theirs, ours) in theirs.iter().zip(ours) {
        if theirs.command != ours.command {
            let (theirs, ours) = (theirs.command.join(" "), ours.command.join(" "));
            return Err(format!("the script took different ways: {theirs} and {ours}"));
        }
        if theirs.said != ours.said {
            let difference = difference(theirs, ours);
            // Asked twice, answered twice the same.
            if !found.contains(&difference) {
                found.push(difference);
            }
        }
    }
    if theirs.len() != ours.len() {
        return Err(format!("{} commands against etcd, {} here", theirs.len(), ours.len()));
    }
    Ok(found)
}

fn difference(theirs: &Record, ours: &Record) -> Vec<String> {
    let (theirs_said, ours_said) = (theirs.said.as_slice(), ours.said.as_slice());
    let alike = |left: &[String], right: &[String], from_end: bool| {
        let pairs = left.len().min(right.len());
        let at = |side: &[String], n: usize| if from_end { side.len() - 1 - n } else { n };
        (0..pairs).take_while(|n| left[at(left, *n)] == right[at(right, *n)]).count()
    };
    let head = alike(theirs_said, ours_said, false);
    let (theirs_said, ours_said) = (&theirs_said[head..], &ours_said[head..]);
    let tail = alike(theirs_said, ours_said, true);
    let (theirs_said, ours_said) =
        (&theirs_said[..theirs_said.len() - tail], &ours_said[..ours_said.len() - tail]);
    let command = theirs.command.iter().cloned();
    let minus = theirs_said.iter().map(|line| format!("- {line}").trim_end().to_owned());
    let plus = ours_said.iter().map(|line| format!("+ {line}").trim_end().to_owned());
    command.chain(minus).chain(plus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = "$ etcdctl get a\na\n1\n$ etcdctl txn\n< put b 2\nSUCCESS\n\nOK\n";

    #[test]
    fn equal_transcripts_do_not_differ() {
        let records = parse(THEIRS).expect("well formed");
        assert_eq!(records.len(), 2);
        assert_eq!(differences(&records, &records), Ok(Vec::new()));
    }

    #[test]
    fn a_difference_is_the_command_and_the_lines_that_part() {
        let ours = "$ etcdctl get a\na\n2\n= 1\n$ etcdctl txn\n< put b 2\nSUCCESS\nOK\n";
        let (theirs, ours) = (parse(THEIRS).expect("fine"), parse(ours).expect("fine"));
        let found = differences(&theirs, &ours).expect("the same commands");
        let expected: [&[&str]; 2] =
            [&["$ etcdctl get a", "- 1", "+ 2", "+ = 1"], &["$ etcdctl txn", "< put b 2", "-"]];
        assert_eq!(found, expected);
    }

    #[test]
    fn scripts_that_part_are_not_compared() {
        let other = parse("$ etcdctl get b\n").expect("well formed");
        let theirs = parse(THEIRS).expect("well formed");
        assert!(differences(&theirs, &other).is_err());
        assert!(differences(&theirs, &theirs[..1]).is_err());
        assert!(parse("hello\n").is_err());
    }
}
