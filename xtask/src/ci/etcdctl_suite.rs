//! Stock etcdctl, unmodified, against a local cluster: Debian's package and the newest release.
//!
//! Each check compares what etcdctl prints with what it prints against etcd; every check passes
//! against stock etcd servers too (`cargo xtask ci etcdctl --etcd-binary …`), which keeps the
//! suite honest.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Context;
use super::client_cluster::{ClientCluster, signal};
use super::shell::{Said, ensure_installed, listen, output};
use super::stock_etcd;
use super::tally::Tally;

/// How long a killed leader may go unreplaced, from a user's point of view.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a watch may take to print what has already happened.
const WATCH_TIMEOUT: Duration = Duration::from_secs(20);

/// A value that etcd refuses, and that still fits the client's own limit.
const TOO_LARGE_BYTES: usize = 1_700_000;

pub(super) fn run(context: &Context, tally: &mut Tally) {
    let debian = ensure_installed("etcdctl", "etcd-client").map(|()| PathBuf::from("etcdctl"));
    run_binary(context, tally, "Debian's etcdctl", debian);
    match stock_etcd::newest(context) {
        Some(newest) => run_binary(context, tally, "etcdctl 3.6", newest.map(|etcd| etcd.etcdctl)),
        None => println!("skip  etcdctl 3.6: there is no Go to build it with"),
    }
}

fn run_binary(context: &Context, tally: &mut Tally, title: &str, binary: Result<PathBuf, String>) {
    let started = binary.and_then(|binary| {
        println!(
            "{}",
            output(Command::new(&binary).arg("version").env("ETCDCTL_API", "3"))?.trim()
        );
        Ok((binary, ClientCluster::start(context, "etcdctl")?))
    });
    let (binary, cluster) = match started {
        Ok(started) => started,
        Err(why) => return tally.fail(title, &why),
    };
    let suite = Suite { binary, cluster };
    type Check = (&'static str, fn(&Suite) -> Result<(), String>);
    let checks: [Check; 20] = [
        ("put, and get from every member", Suite::put_and_get),
        ("get a range in every form", Suite::ranges),
        ("get an old revision", Suite::old_revision),
        ("put and del return what they replace", Suite::previous_values),
        ("del a prefix", Suite::delete_prefix),
        ("txn takes the right branch", Suite::transaction),
        ("txn refuses to put one key twice", Suite::duplicate_key),
        ("watch tells history from a revision", Suite::watch_history),
        ("compact, and ask for what is gone", Suite::compact),
        ("a revision of the future is refused", Suite::future_revision),
        ("an empty key is refused", Suite::empty_key),
        ("a value that is too large is refused", Suite::too_large),
        ("member list", Suite::member_list),
        ("endpoint status", Suite::endpoint_status),
        ("endpoint health", Suite::endpoint_health),
        ("endpoint hashkv is the same everywhere", Suite::hash),
        ("snapshot save writes a whole snapshot", Suite::snapshot_save),
        ("defrag answers for every member", Suite::defragment),
        ("alarm list and disarm say nothing without an alarm", Suite::no_alarms),
        ("kill -9 of the leader: writes go on, a watch goes on", Suite::kill_leader),
    ];
    for (name, check) in checks {
        tally.check(&format!("{title}: {name}"), || check(&suite));
    }
    tally.check(&format!("{title}: the cluster stops when asked to"), || suite.cluster.stop());
}

struct Suite {
    binary: PathBuf,
    cluster: ClientCluster,
}

impl Suite {
    fn command(&self, endpoints: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoints}")).args(arguments);
        command
    }

    fn all_endpoints(&self) -> String {
        self.cluster.endpoints().join(",")
    }

    /// Runs etcdctl against all endpoints.
    fn say(&self, arguments: &[&str], input: &str) -> Result<Said, String> {
        listen(&mut self.command(&self.all_endpoints(), arguments), input)
    }

    /// It must succeed and print exactly this.
    fn expect(&self, arguments: &[&str], expected: &str) -> Result<(), String> {
        let said = self.say(arguments, "")?;
        same(&format!("{arguments:?}"), said.stdout.trim_end(), expected, &said.stderr)
    }

    /// It must fail and say this.
    fn expect_error(&self, arguments: &[&str], input: &str, expected: &str) -> Result<(), String> {
        let said = self.say(arguments, input)?;
        if !said.success && said.stderr.contains(expected) {
            return Ok(());
        }
        Err(format!("{arguments:?} said {}{}, not {expected}", said.stdout, said.stderr))
    }

    fn put(&self, key: &str, value: &str) -> Result<(), String> {
        self.expect(&["put", key, value], "OK")
    }

    /// The keyspace's revision.
    fn revision(&self) -> Result<u64, String> {
        self.field(&["get", "no-such-key", "-w", "fields"], "\"Revision\" : ")
    }

    /// A number in the output of `-w fields`.
    fn field(&self, arguments: &[&str], name: &str) -> Result<u64, String> {
        let said = self.say(arguments, "")?;
        let value = said.stdout.lines().find_map(|line| line.strip_prefix(name));
        value
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| format!("no {name} in {}{}", said.stdout, said.stderr))
    }

    fn put_and_get(&self) -> Result<(), String> {
        self.put("greeting", "hello")?;
        for endpoint in self.cluster.endpoints() {
            let said = listen(&mut self.command(endpoint, &["get", "greeting"]), "")?;
            same(endpoint, said.stdout.trim_end(), "greeting\nhello", &said.stderr)?;
            let put = ["put", "from", endpoint];
            same(endpoint, listen(&mut self.command(endpoint, &put), "")?.stdout.trim(), "OK", "")?;
        }
        self.expect(&["get", "greeting", "--print-value-only"], "hello")?;
        self.expect(&["get", "greeting", "--consistency=s"], "greeting\nhello")?;
        self.expect(&["get", "absent"], "")
    }

    fn ranges(&self) -> Result<(), String> {
        for (key, value) in [("r/a", "3"), ("r/b", "1"), ("r/c", "2")] {
            self.put(key, value)?;
        }
        let get = ["get", "r/", "--prefix"];
        let with = |more: &[&'static str]| [get.as_slice(), more].concat();
        self.expect(&with(&[]), "r/a\n3\nr/b\n1\nr/c\n2")?;
        self.expect(&with(&["--limit=2"]), "r/a\n3\nr/b\n1")?;
        self.expect(&with(&["--order=DESCEND", "--sort-by=KEY"]), "r/c\n2\nr/b\n1\nr/a\n3")?;
        self.expect(&with(&["--order=ASCEND", "--sort-by=VALUE", "--limit=1"]), "r/b\n1")?;
        self.expect(&with(&["--order=DESCEND", "--sort-by=MODIFY", "--limit=1"]), "r/c\n2")?;
        self.expect(&with(&["--print-value-only"]), "3\n1\n2")?;
        self.expect(&["get", "r/b", "r/c"], "r/b\n1")?;
        self.expect(&["get", "r/b", "--from-key", "--limit=1"], "r/b\n1")?;
        let keys = self.say(&with(&["--keys-only"]), "")?.stdout;
        same("keys only", &keys.split_whitespace().collect::<String>(), "r/ar/br/c", "")?;
        let count = self.field(&with(&["--limit=1", "-w", "fields"]), "\"Count\" : ")?;
        same("count", &count.to_string(), "3", "")
    }

    fn old_revision(&self) -> Result<(), String> {
        self.put("old", "first")?;
        let revision = format!("--rev={}", self.revision()?);
        self.put("old", "second")?;
        self.expect(&["get", "old", &revision], "old\nfirst")?;
        self.expect(&["get", "old"], "old\nsecond")
    }

    fn previous_values(&self) -> Result<(), String> {
        self.put("previous", "first")?;
        self.expect(&["put", "--prev-kv", "previous", "second"], "OK\nprevious\nfirst")?;
        self.expect(&["del", "--prev-kv", "previous"], "1\nprevious\nsecond")?;
        self.expect(&["del", "previous"], "0")
    }

    fn delete_prefix(&self) -> Result<(), String> {
        for key in ["d/1", "d/2", "d/3", "e/1"] {
            self.put(key, "x")?;
        }
        self.expect(&["del", "d/", "--prefix"], "3")?;
        self.expect(&["get", "d/", "--prefix"], "")?;
        self.expect(&["get", "e/1"], "e/1\nx")
    }

    fn transaction(&self) -> Result<(), String> {
        self.put("t", "one")?;
        let conditions = [
            ("value(\"t\") = \"one\"", "SUCCESS"),
            ("value(\"t\") = \"two\"", "FAILURE"),
            ("version(\"t\") > \"0\"", "SUCCESS"),
            ("create(\"absent\") = \"0\"", "SUCCESS"),
            ("mod(\"t\") < \"1\"", "FAILURE"),
        ];
        for (condition, branch) in conditions {
            let script = format!("{condition}\n\nput t/{branch} yes\nget t\n\nget t/none\n\n");
            let said = self.say(&["txn"], &script)?;
            let first = said.stdout.lines().next().unwrap_or("");
            same(condition, first, branch, &said.stderr)?;
        }
        self.expect(&["get", "t/", "--prefix"], "t/SUCCESS\nyes")
    }

    fn duplicate_key(&self) -> Result<(), String> {
        let script = "\nput twice 1\nput twice 2\n\n\n";
        let expected = "etcdserver: duplicate key given in txn request";
        self.expect_error(&["txn"], script, expected)?;
        self.expect(&["get", "twice"], "")
    }

    fn watch_history(&self) -> Result<(), String> {
        let from = self.revision()? + 1;
        self.put("w/a", "1")?;
        self.put("w/a", "2")?;
        self.expect(&["del", "w/a"], "1")?;
        self.put("w/b", "3")?;
        let revision = format!("--rev={from}");
        let watch = ["watch", "--prefix", "--prev-kv", &revision, "w/"];
        let expected =
            "PUT\n\n\nw/a\n1\nPUT\nw/a\n1\nw/a\n2\nDELETE\nw/a\n2\nw/a\n\nPUT\n\n\nw/b\n3";
        let printed = self.watch_until(&self.command(&self.all_endpoints(), &watch), "w/b\n3")?;
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        same("the history", &squeeze(&printed), &squeeze(expected), "")
    }

    /// Lets a watch print into a file until it has printed `last`.
    fn watch_until(&self, command: &Command, last: &str) -> Result<String, String> {
        let watch = Watch::start(command)?;
        watch.wait_for(last)
    }

    fn compact(&self) -> Result<(), String> {
        self.put("c", "1")?;
        let old = self.revision()?;
        self.put("c", "2")?;
        let compacted = self.revision()?;
        let expected = format!("compacted revision {compacted}");
        self.expect(&["compact", &compacted.to_string()], &expected)?;
        let gone = "etcdserver: mvcc: required revision has been compacted";
        self.expect_error(&["get", "c", &format!("--rev={old}")], "", gone)?;
        self.expect_error(&["compact", &compacted.to_string()], "", gone)?;
        self.expect(&["get", "c", &format!("--rev={compacted}")], "c\n2")?;
        self.put("c", "3")?;
        let physical = self.revision()?;
        let expected = format!("compacted revision {physical}");
        self.expect(&["compact", "--physical", &physical.to_string()], &expected)
    }

    /// A snapshot with a digest is known by its length; etcdctl only writes down what it gets.
    fn snapshot_save(&self) -> Result<(), String> {
        let file = std::env::temp_dir().join(format!("snapshot-{}", std::process::id()));
        let name = file.display().to_string();
        let endpoint = &self.cluster.endpoints()[0];
        let saved = listen(&mut self.command(endpoint, &["snapshot", "save", &name]), "");
        let length = std::fs::metadata(&file).map(|file| file.len());
        drop(std::fs::remove_file(&file));
        let said = saved?;
        match length {
            Ok(length) if said.success && length > 512 && length % 512 == 32 => Ok(()),
            length => Err(format!("{length:?} bytes; it said {}{}", said.stdout, said.stderr)),
        }
    }

    fn defragment(&self) -> Result<(), String> {
        let said = self.say(&["defrag"], "")?;
        let finished = said.stdout.matches("Finished defragmenting").count();
        if said.success && finished == self.cluster.endpoints().len() {
            return Ok(());
        }
        Err(format!("it said {}{}", said.stdout, said.stderr))
    }

    fn no_alarms(&self) -> Result<(), String> {
        self.expect(&["alarm", "list"], "")?;
        self.expect(&["alarm", "disarm"], "")
    }

    fn future_revision(&self) -> Result<(), String> {
        let future = format!("--rev={}", self.revision()? + 1000);
        let expected = "etcdserver: mvcc: required revision is a future revision";
        self.expect_error(&["get", "c", &future], "", expected)
    }

    fn empty_key(&self) -> Result<(), String> {
        self.expect_error(&["put", "", "x"], "", "etcdserver: key is not provided")
    }

    fn too_large(&self) -> Result<(), String> {
        let value = "x".repeat(TOO_LARGE_BYTES);
        self.expect_error(&["put", "large"], &value, "etcdserver: request is too large")
    }

    fn member_list(&self) -> Result<(), String> {
        let list = self.say(&["member", "list"], "")?.stdout;
        let started = list.lines().filter(|line| line.contains(", started, ")).count();
        let urls = self.cluster.endpoints();
        let listed = urls.iter().filter(|url| list.contains(&format!("http://{url}"))).count();
        let named =
            self.cluster.members.iter().filter(|member| list.contains(&member.name)).count();
        same("started, listed, named", &format!("{started} {listed} {named}"), "3 3 3", &list)
    }

    /// Debian's etcdctl says the member's whole URL where HTTP/2 wants a host.
    fn endpoint_status(&self) -> Result<(), String> {
        for arguments in [["endpoint", "status"].as_slice(), &["endpoint", "status", "--cluster"]] {
            let list = self.say(arguments, "")?.stdout;
            let leaders = list.lines().filter(|line| line.contains(", true, false, ")).count();
            let followers = list.lines().filter(|line| line.contains(", false, false, ")).count();
            same("leaders, followers", &format!("{leaders} {followers}"), "1 2", &list)?;
        }
        Ok(())
    }

    fn endpoint_health(&self) -> Result<(), String> {
        for arguments in [["endpoint", "health"].as_slice(), &["endpoint", "health", "--cluster"]] {
            let said = self.say(arguments, "")?;
            let text = said.stdout + &said.stderr;
            let healthy = text.lines().filter(|line| line.contains("is healthy")).count();
            same("healthy members", &healthy.to_string(), "3", &text)?;
        }
        Ok(())
    }

    fn hash(&self) -> Result<(), String> {
        for arguments in [["endpoint", "hashkv"].as_slice(), &["endpoint", "hashkv", "--cluster"]] {
            let list = self.say(arguments, "")?.stdout;
            let hashes = list.lines().filter_map(|line| line.split(", ").nth(1));
            let mut hashes: Vec<&str> = hashes.collect();
            let members = hashes.len();
            hashes.dedup();
            same("members, hashes", &format!("{members} {}", hashes.len()), "3 1", &list)?;
        }
        Ok(())
    }

    fn kill_leader(&self) -> Result<(), String> {
        self.put("k/before", "1")?;
        let from = format!("--rev={}", self.revision()?);
        let watch = ["watch", "--prefix", &from, "k/"];
        let watch = Watch::start(&self.command(&self.all_endpoints(), &watch))?;
        let status = self.say(&["endpoint", "status"], "")?.stdout;
        let leader = status.lines().find(|line| line.contains(", true, false, "));
        let leader = leader.and_then(|line| line.split(", ").next()).ok_or("nobody leads")?;
        let leader = self.cluster.members.iter().find(|member| member.etcd == leader);
        // In `dev --json` the parent announces restarted members too; ours is the first life.
        signal(&leader.ok_or("the leader is not a member")?.process_id, "-KILL")?;
        let give_up = Instant::now() + FAILOVER_TIMEOUT;
        while let Err(error) = self.put("k/after", "2") {
            if Instant::now() > give_up {
                return Err(format!("no put for {FAILOVER_TIMEOUT:?} after the kill: {error}"));
            }
        }
        self.expect(&["get", "k/", "--prefix"], "k/after\n2\nk/before\n1")?;
        let printed = watch.wait_for("k/after\n2")?;
        if printed.starts_with("PUT\nk/before\n1\nPUT\nk/after\n2") {
            return Ok(());
        }
        Err(format!("the watch printed {printed}"))
    }
}

/// An `etcdctl watch` whose output goes to a file.
struct Watch {
    child: std::process::Child,
    path: PathBuf,
}

impl Watch {
    fn start(command: &Command) -> Result<Watch, String> {
        let path = std::env::temp_dir().join(format!("quorate-watch-{}", std::process::id()));
        let file = std::fs::File::create(&path).map_err(|error| error.to_string())?;
        let mut watch = Command::new(command.get_program());
        watch.args(command.get_args()).env("ETCDCTL_API", "3");
        watch.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        let child = watch.spawn().map_err(|error| format!("cannot watch: {error}"))?;
        Ok(Watch { child, path })
    }

    fn wait_for(&self, last: &str) -> Result<String, String> {
        let give_up = Instant::now() + WATCH_TIMEOUT;
        loop {
            let text = std::fs::read_to_string(&self.path).map_err(|error| error.to_string())?;
            if text.trim_end().ends_with(last) {
                return Ok(text);
            }
            if Instant::now() > give_up {
                return Err(format!("the watch printed only {text:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_file(&self.path));
    }
}

fn same(what: &str, actual: &str, expected: &str, more: &str) -> Result<(), String> {
    if actual == expected {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:?}, found {actual:?} {more}"))
}
