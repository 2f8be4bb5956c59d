//! Precedence, defaults, and every sentence of refusal.

use super::*;

fn toml(text: &str) -> Settings {
    Settings::from_toml(text, "quorate.toml").expect("it is sound")
}

fn environment(variables: &[(&str, &str)]) -> Result<Settings, String> {
    let owned = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Settings::from_environment(owned)
}

fn refusal(text: &str) -> String {
    toml(text).resolve().expect_err("it should be refused")
}

#[test]
fn nothing_set_is_one_durable_node_on_the_standard_ports() {
    let config = Settings::default().resolve().expect("the defaults are sound");
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("quorate-data/default"));
    assert_eq!(config.etcd, "127.0.0.1:2379");
    assert_eq!(config.peer, "127.0.0.1:2380");
    assert_eq!(config.admin, "127.0.0.1:2381");
    assert_eq!(config.cluster.members.len(), 1);
    assert_eq!(config.cluster.ids, [config.cluster.node]);
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert_eq!(config.lease, Duration::from_millis(200));
    assert_eq!(config.sync_form, SyncForm::Real);
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = toml("name = 'file'\netcd = '10.0.0.1:1'\nheartbeat-ms = 50\n");
    let environment = environment(&[
        ("QUORATE_NAME", "123"),
        ("QUORATE_ETCD", "10.0.0.2:2"),
        ("QUORATE_LEASE_MS", "0"),
        ("HOME", "/root"),
        ("QUORATE_LOG", "debug"),
        ("QUORATE_SERVICE_HOST", "10.1.1.1"),
        ("QUORATE_PORT_2379_TCP", "tcp://10.1.1.1:2379"),
    ]);
    let flags = Settings { etcd: Some("10.0.0.3:3".to_owned()), ..Settings::default() };
    let config = flags.or(environment.expect("sound")).or(file).resolve().expect("sound");
    assert_eq!(config.etcd, "10.0.0.3:3");
    assert_eq!(config.name, "123", "a name of digits stays text");
    assert_eq!(config.lease, Duration::ZERO);
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
}

#[test]
fn members_with_the_same_settings_agree_and_others_do_not() {
    let list = "n1=10.0.0.1:2380,n2=http://10.0.0.2:2380/,n3=10.0.0.3:2380";
    let member = |name: &str, list: &str, token: &str| {
        let text = format!(
            "name = '{name}'\ninitial-cluster = '{list}'\ninitial-cluster-token = '{token}'"
        );
        toml(&text).resolve().expect("sound").cluster
    };
    let (first, second) = (member("n1", list, "t"), member("n2", list, "t"));
    let turned = "n3=10.0.0.3:2380,n1=10.0.0.1:2380,n2=10.0.0.2:2380";
    assert_eq!(first, member("n1", turned, "t"), "the order of the list does not matter");
    assert_eq!((first.id, &first.ids), (second.id, &second.ids));
    assert_ne!(first.node, second.node);
    assert_ne!(first.id, member("n1", list, "other").id);
    assert_ne!(first.node, member("n1", list, "other").node);
}

#[test]
fn ids_never_change() {
    let cluster = Settings::default().resolve().expect("sound").cluster;
    assert_eq!(format!("{:x} {}", cluster.id, cluster.node), "e63208a9c3fcfa53 4d282cbde8b88374");
}

#[test]
fn a_listed_member_listens_where_the_list_says() {
    let list = "name = 'n2'\ninitial-cluster = 'n1=10.0.0.1:2380,n2=10.0.0.2:7000'\n";
    assert_eq!(toml(list).resolve().expect("sound").peer, "10.0.0.2:7000");
    let explicit = format!("{list}peer = '0.0.0.0:7000'\n");
    let config = toml(&explicit).resolve().expect("sound");
    assert_eq!(config.peer, "0.0.0.0:7000");
}

#[test]
fn contradictions_are_refused_in_one_sentence() {
    let cases = [
        ("etcd = '127.0.0.1:2380'", "etcd and peer are both 127.0.0.1:2380"),
        ("etcd = '2379'", "etcd is \"2379\"; it should look like 127.0.0.1:2379"),
        ("etcd = '[::1:2379'", "etcd is \"[::1:2379\"; it should look like 127.0.0.1:2379"),
        ("etcd = 'a:99999'", "etcd is \"a:99999\"; it should look like 127.0.0.1:2379"),
        ("etcd = 'https://a:1'", "etcd is \"https://a:1\", but TLS is not available yet"),
        ("initial-cluster = 'n1=a:1'", "does not list this member, \"default\""),
        ("initial-cluster = 'default=a:1,default=b:1'", "lists \"default\" twice"),
        ("initial-cluster = 'default=a:1,b=a:1'", "lists the address a:1 twice"),
        ("initial-cluster = 'default'", "it should look like name=host:port"),
        ("initial-cluster = 'default=a:0,b=b:1'", "needs a fixed peer port"),
        ("heartbeat-ms = 600", "election-ms must be at least twice heartbeat-ms"),
        ("heartbeat-ms = 0", "heartbeat-ms must not be 0"),
        ("lease-ms = 251", "lease-ms must be at most a quarter of election-ms"),
        ("front-ends = 0", "front-ends must be between 1 and 256"),
        ("name = '../etc'", "the name \"../etc\" is not possible"),
        ("test-no-sync = true", "test-no-sync needs test-power-loss"),
        ("cache-mib = 0", "cache-mib must be at least 1"),
        ("reserve-mib = 9223372036854775807", "reserve-mib is too large"),
    ];
    for (text, expected) in cases {
        let sentence = refusal(text);
        assert!(sentence.contains(expected), "{text}: {sentence}");
        assert!(!sentence.contains('\n'), "{text}: one sentence");
    }
}

#[test]
fn unknown_settings_are_named_with_their_place() {
    let sentence = Settings::from_toml("name = 'a'\ndata-dri = 'b'\n", "q.toml").expect_err("typo");
    assert!(sentence.starts_with("q.toml, line 2: unknown field `data-dri`"), "{sentence}");
    let sentence = environment(&[("QUORATE_NAMR", "a")]).expect_err("typo");
    assert!(sentence.starts_with("environment variable QUORATE_NAMR: unknown field"), "{sentence}");
    let sentence = environment(&[("QUORATE_LEASE_MS", "soon")]).expect_err("not a number");
    assert!(sentence.starts_with("environment variable QUORATE_LEASE_MS: "), "{sentence}");
}
