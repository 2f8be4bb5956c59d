//! etcd's names for settings: what each of its flags, and `ETCD_*` variables, means here.
//!
//! A flag that means the same is accepted under its own name or ours. One that tunes a mechanism
//! which does not exist here is accepted, ignored, and said to be (docs/operations.md lists them).
//! One whose absence would break a promise that its user relies on is refused. Whatever etcd does
//! not know either is left to the settings themselves.

/// What became of one of etcd's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The setting of the same name.
    Same,
    /// The setting of this name.
    Named(&'static str),
    /// Nothing, for this reason.
    Ignored(&'static str),
    /// Not possible, for this reason, unless it has one of these values.
    Refused(&'static [&'static str], &'static str),
}

/// Whether a flag stands alone or wants a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `--flag`, `--flag=true`.
    Switch,
    /// `--flag value`, `--flag=value`.
    Value,
}

use Form::{Switch, Value};
use Meaning::{Ignored, Named, Refused, Same};

const LOG: &str = "snapshots are taken, and the log is cut, when there is something to cut";
const ENGINE: &str = "the storage engine is another one and needs no such tuning";
const TUNED: &str = "connections keep the limits of docs/etcd.md";
const ALWAYS: &str = "it is always so";
const CHECKED: &str = "replicas are compared all the time, whatever is set";
const LEASES: &str = "leases survive a change of leader, whatever is set";
const NO_V2: &str = "there is no v2 API and no v2 store";
const TRACES: &str = "traces are not exported yet";
const TO_STDERR: &str = "the log goes to standard error, as text";
const NO_DISCOVERY: &str = "discovery services are not asked; say initial-cluster";

/// Names without `experimental-`, which etcd puts before some of them in some of its versions.
const FLAGS: [(&str, Form, Meaning); 100] = [
    ("name", Value, Same),
    ("data-dir", Value, Same),
    ("listen-client-urls", Value, Named("etcd")),
    ("listen-peer-urls", Value, Named("peer")),
    ("listen-metrics-urls", Value, Named("admin")),
    ("advertise-client-urls", Value, Named("advertise-etcd")),
    ("initial-advertise-peer-urls", Value, Same),
    ("initial-cluster", Value, Same),
    ("initial-cluster-token", Value, Same),
    ("initial-cluster-state", Value, Same),
    ("heartbeat-interval", Value, Named("heartbeat-ms")),
    ("election-timeout", Value, Named("election-ms")),
    ("log-level", Value, Same),
    ("quota-backend-bytes", Value, Same),
    ("auto-compaction-mode", Value, Same),
    ("auto-compaction-retention", Value, Same),
    ("max-request-bytes", Value, Refused(&["1572864"], "a request has at most 1.5 MiB")),
    ("max-txn-ops", Value, Refused(&["128"], "a transaction has at most 128 operations")),
    ("auth-token", Value, Same),
    ("auth-token-ttl", Value, Same),
    ("bcrypt-cost", Value, Same),
    ("force-new-cluster", Switch, Same),
    ("cert-file", Value, Same),
    ("key-file", Value, Same),
    ("trusted-ca-file", Value, Same),
    ("client-cert-auth", Switch, Same),
    ("client-crl-file", Value, Same),
    ("client-cert-allowed-hostname", Value, Same),
    ("auto-tls", Switch, Same),
    ("peer-cert-file", Value, Same),
    ("peer-key-file", Value, Same),
    ("peer-trusted-ca-file", Value, Same),
    ("peer-client-cert-auth", Switch, Same),
    ("peer-crl-file", Value, Same),
    ("peer-cert-allowed-cn", Value, Same),
    ("peer-cert-allowed-hostname", Value, Same),
    ("peer-auto-tls", Switch, Same),
    ("peer-skip-client-san-verification", Switch, Same),
    ("self-signed-cert-validity", Value, Same),
    ("tls-min-version", Value, Same),
    ("tls-max-version", Value, Same),
    ("cipher-suites", Value, Same),
    ("snapshot-count", Value, Ignored(LOG)),
    ("snapshot-catchup-entries", Value, Ignored(LOG)),
    ("max-snapshots", Value, Ignored(LOG)),
    ("max-wals", Value, Ignored(LOG)),
    ("backend-bbolt-freelist-type", Value, Ignored(ENGINE)),
    ("backend-batch-interval", Value, Ignored(ENGINE)),
    ("backend-batch-limit", Value, Ignored(ENGINE)),
    ("bootstrap-defrag-threshold-megabytes", Value, Ignored(ENGINE)),
    ("stop-grpc-service-on-defrag", Switch, Ignored(ENGINE)),
    ("compaction-batch-limit", Value, Ignored(ENGINE)),
    ("compaction-sleep-interval", Value, Ignored(ENGINE)),
    ("txn-mode-write-with-shared-buffer", Switch, Ignored(ENGINE)),
    ("memory-mlock", Switch, Ignored(ENGINE)),
    ("max-concurrent-streams", Value, Ignored(TUNED)),
    ("grpc-keepalive-min-time", Value, Ignored(TUNED)),
    ("grpc-keepalive-interval", Value, Ignored(TUNED)),
    ("grpc-keepalive-timeout", Value, Ignored(TUNED)),
    ("raft-read-timeout", Value, Ignored(TUNED)),
    ("raft-write-timeout", Value, Ignored(TUNED)),
    ("socket-reuse-port", Switch, Ignored(TUNED)),
    ("socket-reuse-address", Switch, Ignored(ALWAYS)),
    ("watch-progress-notify-interval", Value, Ignored("progress is told every ten minutes")),
    ("initial-election-tick-advance", Switch, Ignored("the first election does not wait")),
    ("strict-reconfig-check", Switch, Ignored(ALWAYS)),
    ("pre-vote", Switch, Ignored(ALWAYS)),
    ("initial-corrupt-check", Switch, Ignored(CHECKED)),
    ("corrupt-check-time", Value, Ignored(CHECKED)),
    ("compact-hash-check-enabled", Switch, Ignored(CHECKED)),
    ("compact-hash-check-time", Value, Ignored(CHECKED)),
    ("enable-lease-checkpoint", Switch, Ignored(LEASES)),
    ("enable-lease-checkpoint-persist", Switch, Ignored(LEASES)),
    ("downgrade-check-time", Value, Ignored("there is no downgrade to look for")),
    ("max-learners", Value, Ignored("how many learners there may be is fixed")),
    ("warning-apply-duration", Value, Ignored("durations are in the metrics")),
    ("warning-unary-request-duration", Value, Ignored("durations are in the metrics")),
    ("metrics", Value, Ignored("every metric is always there")),
    ("enable-pprof", Switch, Ignored("pprof is Go's; use perf")),
    ("enable-grpc-gateway", Switch, Ignored("the JSON gateway is not built yet")),
    ("cors", Value, Ignored("the JSON gateway is not built yet")),
    ("host-whitelist", Value, Ignored("the JSON gateway is not built yet")),
    ("enable-v2", Switch, Ignored(NO_V2)),
    ("v2-deprecation", Value, Ignored(NO_V2)),
    ("logger", Value, Ignored(TO_STDERR)),
    ("log-format", Value, Ignored(TO_STDERR)),
    ("log-outputs", Value, Ignored(TO_STDERR)),
    ("enable-log-rotation", Switch, Ignored(TO_STDERR)),
    ("log-rotation-config-json", Value, Ignored(TO_STDERR)),
    ("enable-distributed-tracing", Switch, Ignored(TRACES)),
    ("feature-gates", Value, Ignored("these features are etcd's own")),
    ("discovery-fallback", Value, Ignored(NO_DISCOVERY)),
    ("discovery", Value, Refused(&[], NO_DISCOVERY)),
    ("discovery-srv", Value, Refused(&[], NO_DISCOVERY)),
    ("discovery-endpoints", Value, Refused(&[], NO_DISCOVERY)),
    ("proxy", Value, Refused(&["off"], "there is no proxy mode")),
    ("wal-dir", Value, Refused(&[], "the log is kept in data-dir; put that on the fast disk")),
    ("listen-client-http-urls", Value, Refused(&[], "HTTP is served where gRPC is")),
    ("config-file", Value, Refused(&[], "settings are read from a TOML file: --config")),
    ("unsafe-no-fsync", Switch, Refused(&["false"], "nothing is acknowledged before its sync")),
];

/// What a flag of etcd's means; `None` if etcd has none of this name.
pub(super) fn meaning(name: &str) -> Option<Meaning> {
    find(name).map(|(_, _, meaning)| meaning)
}

fn find(name: &str) -> Option<(&'static str, Form, Meaning)> {
    let name = name.strip_prefix("experimental-").unwrap_or(name);
    FLAGS.iter().find(|(known, ..)| *known == name).copied()
}

/// A command line in this program's own words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// The arguments, without those that mean nothing here.
    pub arguments: Vec<String>,
    /// What was ignored and why, for the log.
    pub notes: Vec<String>,
}

/// Puts arguments of etcd's into this program's words; those of its own stay what they are.
///
/// # Errors
/// One sentence about a flag of etcd's that cannot be served.
pub fn translate(arguments: impl IntoIterator<Item = String>) -> Result<Translated, String> {
    let mut arguments = arguments.into_iter();
    let mut translated = Translated::default();
    while let Some(argument) = arguments.next() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        // Go takes one dash for two.
        let name = flag.strip_prefix("--").or_else(|| flag.strip_prefix('-')).unwrap_or("");
        let Some((_, form, meaning)) = find(name) else {
            translated.arguments.push(argument);
            continue;
        };
        let own = match meaning {
            Same => name.strip_prefix("experimental-").unwrap_or(name),
            Named(own) => own,
            Ignored(_) | Refused(..) => {
                let value = match (value, form) {
                    (Some(value), _) => value,
                    (None, Switch) => "true".to_owned(),
                    (None, Value) => arguments.next().unwrap_or_default(),
                };
                translated.notes.extend(without_meaning(flag, meaning, &value)?);
                continue;
            }
        };
        translated.arguments.push(match value {
            Some(value) => format!("--{own}={value}"),
            None => format!("--{own}"),
        });
        if let (None, Value) = (argument.split_once('='), form) {
            // Attached, since it may begin with a dash.
            let value = arguments.next().ok_or_else(|| format!("{flag} wants a value"))?;
            let last = translated.arguments.last_mut().expect("it was just pushed");
            last.push('=');
            last.push_str(&value);
        }
    }
    Ok(translated)
}

/// What is to be said about a flag or variable, called `origin`, that is no setting.
pub(super) fn without_meaning(
    origin: &str,
    meaning: Meaning,
    value: &str,
) -> Result<Option<String>, String> {
    match meaning {
        Ignored(reason) => Ok(Some(format!("{origin} is ignored: {reason}"))),
        Refused(harmless, _) if value.is_empty() || harmless.contains(&value) => Ok(None),
        Refused(_, reason) => Err(format!("{origin} is not possible: {reason}")),
        Same | Named(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = String> {
        line.split_whitespace().map(str::to_owned)
    }

    #[test]
    fn flags_are_put_into_our_words_in_every_form_that_go_takes() {
        let line = "--name n1 -data-dir=/d --listen-client-urls http://a:1 --client-cert-auth \
                    --auto-tls=false --heartbeat-interval=50 --cache-mib 8";
        let translated = translate(words(line)).expect("sound");
        let expected = "--name=n1 --data-dir=/d --etcd=http://a:1 --client-cert-auth \
                        --auto-tls=false --heartbeat-ms=50 --cache-mib 8";
        assert_eq!(translated.arguments, words(expected).collect::<Vec<_>>());
        assert!(translated.notes.is_empty());
    }

    #[test]
    fn what_is_ignored_takes_its_value_along_and_is_told() {
        let line = "--snapshot-count 10000 --enable-pprof --logger=zap --pre-vote=false \
                    --experimental-initial-corrupt-check=true --name n1 --wal-dir= --proxy off";
        let translated = translate(words(line)).expect("sound");
        assert_eq!(translated.arguments, ["--name=n1"]);
        assert_eq!(translated.notes.len(), 5, "{:?}", translated.notes);
        assert!(translated.notes[0].starts_with("--snapshot-count is ignored: "));
    }

    #[test]
    fn what_would_break_a_promise_is_refused() {
        for (line, word) in [
            ("--unsafe-no-fsync", "sync"),
            ("--wal-dir /fast", "data-dir"),
            ("--proxy=on", "proxy"),
            ("--config-file /etc/etcd.yml", "--config"),
            ("--discovery https://d/x", "initial-cluster"),
        ] {
            let sentence = translate(words(line)).expect_err(line);
            assert!(sentence.contains(word) && !sentence.contains('\n'), "{line}: {sentence}");
        }
        let sentence = translate(words("--name")).expect_err("nothing follows");
        assert_eq!(sentence, "--name wants a value");
    }

    #[test]
    fn every_flag_that_has_a_setting_has_one() {
        for (name, _, meaning) in FLAGS {
            let variable = format!("ETCD_{}", name.to_uppercase().replace('-', "_"));
            let read = crate::Settings::from_environment([(variable, "1".to_owned())]);
            let unknown = read.as_ref().is_err_and(|error| error.contains("unknown setting"));
            assert!(!unknown, "{name}, {meaning:?}: {read:?}");
        }
    }

    #[test]
    fn no_flag_is_listed_twice() {
        let mut names: Vec<&str> = FLAGS.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
