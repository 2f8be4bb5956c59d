//! Runs the golden scripts: each tells one story about a pattern of the log.
//!
//! Commands: `open [damaged]`, `append [group=G] [len=N] INDEX@TERM...`, `state [group=G] WORD`,
//! `reset [group=G] INDEX`, `clear_damage`, `flush`, `complete [NTH]` (an operation under way, the
//! oldest by default), `settle`, `read [group=G] [from=I] [bytes=N]`, `release [group=G] INDEX`
//! (entries below it), `retry`, `crash [sectors=N]` (power loss; the first N sectors under way
//! remain), `flip FILE OFFSET`, `capacity [BYTES]`, `disk`.

use crate::model_disk::ModelDisk;
use bytes::Bytes;
use clocks::{GroupId, LogPosition, Term};
use goldenscript::{ArgumentConsumer, Command, Context};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use wal::{
    DiskOp, EntryRecord, GroupState, ReadToken, Record, Recovered, Wal, WalConfig, WalEvent,
};

struct Runner {
    disk: ModelDisk,
    wal: Option<Wal>,
    reads: u64,
}

fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 6 * 4096,
        max_batch_bytes: 8192,
        recycled_segments: 1,
        writes_in_flight: 1,
        recovered_tail_bytes: 4096,
    }
}

fn position(word: &str) -> Result<LogPosition, Box<dyn Error>> {
    let (index, term) = word.split_once('@').ok_or("a position is INDEX@TERM")?;
    Ok(LogPosition::new(Term(term.parse()?), index.parse()?))
}

fn number<T>(args: &mut ArgumentConsumer<'_>, key: &str, default: T) -> Result<T, Box<dyn Error>>
where
    T: std::str::FromStr<Err: Error + 'static>,
{
    Ok(args.take_key(key).map(str::parse).transpose()?.unwrap_or(default))
}

fn positions(entries: &[EntryRecord]) -> String {
    let words: Vec<String> = entries.iter().map(|entry| entry.position.to_string()).collect();
    if words.is_empty() { "nothing".into() } else { words.join(" ") }
}

fn describe(op: &DiskOp) -> String {
    match op {
        DiskOp::WriteSync { file, offset, data } => {
            format!("write file {} at {offset}, {} bytes", file.0, data.len())
        }
        DiskOp::Read { file, offset, len } => format!("read file {} at {offset}, {len}", file.0),
        DiskOp::Allocate { file, len, recycled } => match recycled {
            Some(old) => format!("allocate file {}, {len} bytes, from file {}", file.0, old.0),
            None => format!("allocate file {}, {len} bytes", file.0),
        },
        DiskOp::Remove { file } => format!("remove file {}", file.0),
    }
}

fn describe_recovered(recovered: &Recovered) -> String {
    let mut text = String::new();
    for (name, group) in &recovered.groups {
        write!(text, "{name} starts after {}", group.start).expect("strings take everything");
        match group.last {
            Some(last) => write!(text, ", ends with {last}"),
            None => write!(text, ", holds nothing"),
        }
        .expect("strings take everything");
        if let Some(GroupState(state)) = &group.state {
            write!(text, ", state {}", String::from_utf8_lossy(state)).expect("as above");
        }
        text.push('\n');
    }
    if let Some(damage) = &recovered.damage {
        writeln!(text, "damaged in file {} at byte {}", damage.file.0, damage.offset)
            .expect("as above");
    }
    text
}

fn describe_event(event: &WalEvent) -> String {
    match event {
        WalEvent::Durable { through } => format!("durable through append {}\n", through.0),
        WalEvent::Read { entries, .. } => format!("read {}\n", positions(entries)),
        WalEvent::Full => "no space for the next segment\n".into(),
    }
}

impl Runner {
    fn wal(&mut self) -> Result<(&mut Wal, &mut ModelDisk), Box<dyn Error>> {
        let wal = self.wal.as_mut().ok_or("the log is not open")?;
        Ok((wal, &mut self.disk))
    }

    /// Names what was submitted beyond the first `before` operations.
    fn submitted(&self, before: usize) -> String {
        let ops = self.disk.under_way.iter().skip(before);
        ops.map(|(_, op)| format!("{}\n", describe(op))).collect()
    }

    fn open(&mut self, damaged: bool) -> String {
        self.disk.under_way.clear();
        let before = self.disk.history.len();
        let recovered = match damaged {
            false => Wal::recover(config(), &mut self.disk),
            true => Wal::recover_damaged(config(), &mut self.disk),
        };
        let changes = |op: &&DiskOp| !matches!(op, DiskOp::Read { .. });
        let done = self.disk.history[before..].iter().filter(changes);
        let mut text: String = done.map(|op| format!("{}\n", describe(op))).collect();
        match recovered {
            Ok((wal, recovered)) => {
                text.push_str(&describe_recovered(&recovered));
                self.wal = Some(wal);
            }
            Err(error) => {
                self.wal = None;
                writeln!(text, "{error}").expect("strings take everything");
            }
        }
        text
    }

    fn complete(&mut self, nth: usize) -> Result<String, Box<dyn Error>> {
        if nth >= self.disk.under_way.len() {
            return Err("nothing is under way".into());
        }
        let completion = self.disk.complete(nth);
        let before = self.disk.under_way.len();
        let (wal, disk) = self.wal()?;
        let mut text = match wal.handle_completion(completion, disk) {
            Ok(events) => events.iter().map(describe_event).collect(),
            Err(error) => format!("{error}\n"),
        };
        text.push_str(&self.submitted(before));
        Ok(text)
    }

    fn settle(&mut self) -> Result<String, Box<dyn Error>> {
        let mut text = String::new();
        while !self.disk.under_way.is_empty() {
            text.push_str(&self.complete(0)?);
        }
        Ok(text)
    }

    fn read(&mut self, group: GroupId, from: u64, bytes: usize) -> Result<String, Box<dyn Error>> {
        self.reads += 1;
        let token = ReadToken(self.reads);
        let before = self.disk.under_way.len();
        let (wal, disk) = self.wal()?;
        let answer = wal.read(token, group, from, bytes, disk);
        Ok(match answer {
            Some(entries) => format!("read {} from memory\n", positions(&entries)),
            None => self.submitted(before),
        })
    }

    fn append(&mut self, records: Vec<Record>) -> Result<String, Box<dyn Error>> {
        let (wal, _) = self.wal()?;
        let token = wal.append(records);
        Ok(format!("append {}\n", token.0))
    }

    /// Runs `act` and names what it submitted.
    fn submitting(
        &mut self,
        act: impl FnOnce(&mut Wal, &mut ModelDisk),
    ) -> Result<String, Box<dyn Error>> {
        let before = self.disk.under_way.len();
        let (wal, disk) = self.wal()?;
        act(wal, disk);
        Ok(self.submitted(before))
    }

    fn disk(&self) -> String {
        let files = self.disk.files.iter();
        let mut text: String =
            files.map(|(file, bytes)| format!("file {file}, {} bytes\n", bytes.len())).collect();
        if let Some(wal) = &self.wal {
            let full = if wal.is_full() { ", full" } else { "" };
            writeln!(text, "{} segments{full}", wal.segments()).expect("strings take everything");
        }
        text
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let group = GroupId(number(&mut args, "group", 1)?);
        let output = match command.name.as_str() {
            "open" => self.open(args.next_pos().is_some()),
            "append" => {
                let len = number(&mut args, "len", 100)?;
                let mut records = Vec::new();
                while let Some(word) = args.next_pos() {
                    let position = position(word)?;
                    let payload = Bytes::from(vec![position.index as u8; len]);
                    let entry = EntryRecord { position, kind: 1, payload };
                    records.push(Record::Entry { group, entry });
                }
                self.append(records)?
            }
            "state" => {
                let words = args.next_pos().ok_or("a state is a word")?.to_owned();
                self.append(vec![Record::State { group, state: GroupState(words.into()) }])?
            }
            "reset" => {
                let start = args.next_pos().ok_or("a reset has an index")?.parse()?;
                self.append(vec![Record::Reset { group, start }])?
            }
            "clear_damage" => format!("append {}\n", self.wal()?.0.clear_damage().0),
            "flush" => self.submitting(|wal, disk| wal.flush(disk))?,
            "retry" => self.submitting(|wal, disk| wal.retry_full(disk))?,
            "release" => {
                let below = args.next_pos().ok_or("a release has an index")?.parse()?;
                self.submitting(|wal, disk| wal.release(group, below, disk))?
            }
            "complete" => {
                let nth = args.next_pos().map(|nth| nth.parse()).transpose()?.unwrap_or(0);
                self.complete(nth)?
            }
            "settle" => self.settle()?,
            "read" => {
                let from = number(&mut args, "from", 1)?;
                let bytes = number(&mut args, "bytes", 100_000)?;
                self.read(group, from, bytes)?
            }
            "crash" => {
                let sectors: usize = number(&mut args, "sectors", 0)?;
                let mut left = sectors;
                self.disk.crash(|| {
                    let arrives = left > 0;
                    left = left.saturating_sub(1);
                    arrives
                });
                self.wal = None;
                String::new()
            }
            "flip" => {
                let file: u64 = args.next_pos().ok_or("which file?")?.parse()?;
                let offset: usize = args.next_pos().ok_or("at which offset?")?.parse()?;
                self.disk.files.get_mut(&file).ok_or("no such file")?[offset] ^= 1;
                String::new()
            }
            "capacity" => {
                self.disk.capacity = args.next_pos().map(|bytes| bytes.parse()).transpose()?;
                String::new()
            }
            "disk" => self.disk(),
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

fn run(path: &Path) {
    let mut runner = Runner { disk: ModelDisk::default(), wal: None, reads: 0 };
    goldenscript::run(&mut runner, path).expect("the script can be read");
}

fn run_all(pattern: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts").join(pattern);
    let files = std::fs::read_dir(folder).expect("the scripts are there");
    let mut paths: Vec<_> = files.map(|file| file.expect("it can be listed").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        run(&path);
    }
}

#[test]
fn write_ahead_log() {
    run_all("write_ahead_log");
}

#[test]
fn segmented_log() {
    run_all("segmented_log");
}

#[test]
fn low_water_mark() {
    run_all("low_water_mark");
}
