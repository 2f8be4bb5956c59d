//! Precedence, defaults, and every sentence of refusal.

use super::*;

fn toml(text: &str) -> Settings {
    Settings::from_toml(text, "quorate.toml").expect("it is sound")
}

fn environment(variables: &[(&str, &str)]) -> Result<Settings, String> {
    let owned = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Settings::from_environment(owned)
}

fn plain(addresses: &[&str]) -> Vec<Listen> {
    let listen =
        |address: &&str| Listen { address: (*address).to_owned(), transport: Transport::Plain };
    addresses.iter().map(listen).collect()
}

fn refusal(text: &str) -> String {
    toml(text).resolve().expect_err("it should be refused")
}

#[test]
fn nothing_set_is_one_durable_node_on_the_standard_ports() {
    let config = Settings::default().resolve().expect("the defaults are sound");
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("quorate-data/default"));
    assert_eq!(config.etcd, plain(&["127.0.0.1:2379"]));
    assert_eq!(config.peer, plain(&["127.0.0.1:2380"]));
    assert_eq!(config.admin, plain(&["127.0.0.1:2381"]));
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
    assert_eq!(config.etcd, plain(&["10.0.0.3:3"]));
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
    assert_eq!(toml(list).resolve().expect("sound").peer, plain(&["10.0.0.2:7000"]));
    let explicit = format!("{list}peer = '0.0.0.0:7000'\n");
    let config = toml(&explicit).resolve().expect("sound");
    assert_eq!(config.peer, plain(&["0.0.0.0:7000"]));
}

#[test]
fn contradictions_are_refused_in_one_sentence() {
    let cases = [
        ("etcd = '127.0.0.1:2380'", "etcd and peer are both 127.0.0.1:2380"),
        ("etcd = '2379'", "etcd is \"2379\"; it should look like 127.0.0.1:2379"),
        ("etcd = '[::1:2379'", "etcd is \"[::1:2379\"; it should look like 127.0.0.1:2379"),
        ("etcd = 'a:99999'", "etcd is \"a:99999\"; it should look like 127.0.0.1:2379"),
        (
            "etcd = 'https://a:1'",
            "etcd says https://, but there is no certificate: set cert-file and key-file",
        ),
        ("cert-file = '/c'", "cert-file and key-file go together"),
        ("client-cert-auth = true", "client-cert-auth needs cert-file and key-file"),
        ("peer-trusted-ca-file = '/ca'", "peer-trusted-ca-file needs peer-cert-file"),
        ("auto-tls = true\nclient-cert-auth = true", "trusted-ca-file is needed"),
        ("peer-cert-file = '/c'\npeer-key-file = '/k'", "peer-trusted-ca-file is needed"),
        ("auto-tls = true\ntls-min-version = 'TLS1.1'", "tls-min-version is \"TLS1.1\""),
        ("auto-tls = true\nself-signed-cert-validity = 0", "must be 1 to 1000 years"),
        ("admin = 'https://a:1'", "operators are served without TLS"),
        ("initial-cluster = 'default=https://a:1'", "peer says https://, but there is no"),
        (
            "peer-auto-tls = true\ninitial-cluster = 'default=https://a:1,b=http://b:1'",
            "peer URLs are https:// for all members or for none",
        ),
        ("initial-cluster = 'n1=a:1'", "does not list this member, \"default\""),
        ("initial-cluster = 'default=a:1,default=b:1'", "lists \"default\" twice"),
        ("initial-cluster = 'default=a:1,b=a:1'", "lists the address a:1 twice"),
        ("initial-cluster = 'default'", "it should look like name=host:port"),
        ("initial-cluster = 'default=a:0,b=b:1'", "needs a fixed peer port"),
        ("initial-cluster-state = 'existing'", "but initial-cluster is not set"),
        ("initial-cluster-state = 'old'", "it should be new or existing"),
        ("heartbeat-ms = 600", "election-ms must be at least twice heartbeat-ms"),
        ("heartbeat-ms = 0", "heartbeat-ms must not be 0"),
        ("lease-ms = 251", "lease-ms must be at most a quarter of election-ms"),
        ("front-ends = 0", "front-ends must be between 1 and 256"),
        ("name = '../etc'", "the name \"../etc\" is not possible"),
        ("test-no-sync = true", "test-no-sync needs test-power-loss"),
        ("enable-faults = true\nadmin = '[::]:2381'", "enable-faults lets whoever"),
        ("enable-faults = true\nadmin = 'a.example:2381'", "admin must be on loopback"),
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
fn unknown_settings_are_named_with_their_place_and_no_hidden_one() {
    let from_file =
        Settings::from_toml("name = 'a'\ndata-dri = 'b'\n", "q.toml").expect_err("typo");
    assert!(from_file.starts_with("q.toml, line 2: unknown setting `data-dri`"), "{from_file}");
    let variable = environment(&[("QUORATE_NAMR", "a")]).expect_err("typo");
    let expected = "environment variable QUORATE_NAMR: unknown setting `namr`";
    assert!(variable.starts_with(expected), "{variable}");
    for sentence in [from_file, variable] {
        assert!(!sentence.contains("test-"), "{sentence}");
    }
    let sentence = environment(&[("QUORATE_LEASE_MS", "soon")]).expect_err("not a number");
    assert!(sentence.starts_with("environment variable QUORATE_LEASE_MS: "), "{sentence}");
}

#[test]
fn several_listeners_and_urls_are_read() {
    let config = toml("etcd = 'http://127.0.0.1:2379,10.0.0.5:2379'\npeer = 'http://a:1/, b:1'\n")
        .resolve()
        .expect("sound");
    assert_eq!(config.etcd, plain(&["127.0.0.1:2379", "10.0.0.5:2379"]));
    assert_eq!(config.peer, plain(&["a:1", "b:1"]));
    assert_eq!(refusal("etcd = 'a:1,a:1'"), "etcd lists a:1 twice");
    assert_eq!(refusal("etcd = 'a:1,b:1'\npeer = 'c:1,b:1'"), "etcd and peer are both b:1");
}

#[test]
fn the_advertised_peer_url_is_the_listed_one_or_the_only_one() {
    let alone = toml("initial-advertise-peer-urls = 'http://h:2380'\npeer = '0.0.0.0:2380'\n");
    let config = alone.resolve().expect("sound");
    assert_eq!(config.cluster.members[0].address, "h:2380");
    assert_eq!(config.peer, plain(&["0.0.0.0:2380"]));
    let list = "initial-cluster = 'default=a:1'\n";
    let differs = format!("{list}initial-advertise-peer-urls = 'http://b:1'");
    let sentence = refusal(&differs);
    let expected = "this member, \"default\", at a:1, but initial-advertise-peer-urls is b:1";
    assert!(sentence.ends_with(expected), "{sentence}");
}

/// What Bitnami's chart sets for a member, and what Kubernetes adds.
#[test]
fn the_environment_of_a_helm_chart_is_understood() {
    let headless = "etcd-headless.default.svc.cluster.local";
    let (own, peer) =
        (format!("http://etcd-1.{headless}:2379"), format!("http://etcd-1.{headless}:2380"));
    let list: Vec<String> =
        (0..3).map(|n| format!("etcd-{n}=http://etcd-{n}.{headless}:2380")).collect();
    let settings = environment(&[
        ("BITNAMI_DEBUG", "false"),
        ("MY_POD_NAME", "etcd-1"),
        ("MY_STS_NAME", "etcd"),
        ("ETCDCTL_API", "3"),
        ("ETCD_ON_K8S", "yes"),
        ("ETCD_START_FROM_SNAPSHOT", "no"),
        ("ETCD_DISASTER_RECOVERY", "no"),
        ("ETCD_NAME", "etcd-1"),
        ("ETCD_DATA_DIR", "/bitnami/etcd/data"),
        ("ETCD_LOG_LEVEL", "info"),
        ("ALLOW_NONE_AUTHENTICATION", "yes"),
        ("ETCD_ADVERTISE_CLIENT_URLS", &own),
        ("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379"),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", &peer),
        ("ETCD_LISTEN_PEER_URLS", "http://0.0.0.0:2380"),
        ("ETCD_INITIAL_CLUSTER_TOKEN", "etcd-cluster-k8s"),
        ("ETCD_INITIAL_CLUSTER_STATE", "new"),
        ("ETCD_INITIAL_CLUSTER", &list.join(",")),
        ("ETCD_HEARTBEAT_INTERVAL", "250"),
        ("ETCD_ELECTION_TIMEOUT", "2500"),
        ("ETCD_SNAPSHOT_COUNT", "10000"),
        ("ETCD_ENABLE_PPROF", ""),
        ("ETCD_SERVICE_HOST", "10.96.0.7"),
        ("ETCD_PORT", "tcp://10.96.0.7:2379"),
    ]);
    let config = settings.expect("understood").resolve().expect("sound");
    assert_eq!(config.name, "etcd-1");
    assert_eq!(config.data_dir, PathBuf::from("/bitnami/etcd/data"));
    assert_eq!(config.etcd, plain(&["0.0.0.0:2379"]));
    assert_eq!(config.client_urls, [own]);
    assert_eq!(config.cluster.members.len(), 3);
    assert_eq!(config.election_timeout, Duration::from_millis(2500));
    assert_eq!(config.admin, plain(&["127.0.0.1:2381"]), "operators are served on loopback");
    let told = |word: &str| config.notes.iter().filter(|note| note.contains(word)).count();
    assert_eq!(told("ETCD_SNAPSHOT_COUNT is ignored: "), 1);
    assert_eq!(told("ETCD_PORT is ignored: etcd has no such flag"), 1);
    assert_eq!(config.notes.len(), 6, "{:?}", config.notes);
}

#[test]
fn etcds_variables_are_checked_as_ours_and_give_way_to_them() {
    let config = environment(&[("ETCD_NAME", "etcds"), ("QUORATE_NAME", "ours")]);
    assert_eq!(config.expect("sound").resolve().expect("sound").name, "ours");
    let sentence = environment(&[("ETCD_ELECTION_TIMEOUT", "1s")]).expect_err("not a number");
    assert!(sentence.starts_with("environment variable ETCD_ELECTION_TIMEOUT: "), "{sentence}");
    let sentence = environment(&[("ETCD_UNSAFE_NO_FSYNC", "true")]).expect_err("impossible");
    assert!(sentence.contains("ETCD_UNSAFE_NO_FSYNC is not possible: "), "{sentence}");
}

#[test]
fn the_scheme_of_a_url_says_whether_there_is_tls_and_certificates_say_so_without_one() {
    let transports = |text: &str| {
        let config = toml(text).resolve().expect("sound");
        let transport = |listen: &Listen| listen.transport;
        let listeners = config.etcd.iter().chain(&config.peer).map(transport).collect::<Vec<_>>();
        (listeners, config)
    };
    use Transport::{Plain, Tls};
    let certificates = "cert-file = '/c'\nkey-file = '/k'\n";
    let (found, config) =
        transports(&format!("{certificates}etcd = 'https://a:1,http://b:1,c:1'\n"));
    assert_eq!(found, [Tls, Plain, Tls, Plain]);
    assert_eq!(config.notes, ["b:1: etcd says http://: its certificates are not used there"]);
    assert_eq!(config.tls.members, None);
    let (found, config) = transports("peer-auto-tls = true\nadvertise-etcd = 'h:1'\n");
    assert_eq!(found, [Plain, Tls]);
    assert_eq!(config.client_urls, ["http://h:1"]);
    let (found, config) =
        transports("peer-auto-tls = true\ninitial-cluster = 'default=http://a:1,b=b:1'\n");
    assert_eq!(found, [Plain, Plain]);
    assert_eq!(config.tls.members, None, "as etcd, it believes the URLs");
    let (_, config) = transports(&format!("{certificates}advertise-etcd = 'h:1'\n"));
    assert_eq!(config.client_urls, ["https://h:1"]);
}

/// The arguments that kubeadm writes for the etcd of a control plane.
#[test]
fn kubeadms_arguments_are_understood() {
    let arguments = "start --advertise-client-urls=https://172.17.0.2:2379 \
        --cert-file=/etc/kubernetes/pki/etcd/server.crt --client-cert-auth=true \
        --data-dir=/var/lib/etcd --experimental-initial-corrupt-check=true \
        --experimental-watch-progress-notify-interval=5s \
        --initial-advertise-peer-urls=https://172.17.0.2:2380 \
        --initial-cluster=control-plane=https://172.17.0.2:2380 \
        --key-file=/etc/kubernetes/pki/etcd/server.key \
        --listen-client-urls=https://127.0.0.1:2379,https://172.17.0.2:2379 \
        --listen-metrics-urls=http://127.0.0.1:2381 \
        --listen-peer-urls=https://172.17.0.2:2380 --name=control-plane \
        --peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt --peer-client-cert-auth=true \
        --peer-key-file=/etc/kubernetes/pki/etcd/peer.key \
        --peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt --snapshot-count=10000 \
        --trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt";
    let translated = translate(arguments.split_whitespace().map(str::to_owned)).expect("known");
    assert_eq!(translated.notes.len(), 3, "{:?}", translated.notes);
    // As variables: the command line itself is read by crate `quorate`.
    let variable = |argument: &String| {
        let (flag, value) = argument.strip_prefix("--")?.split_once('=')?;
        let name = flag.replace('-', "_").to_uppercase();
        Some((format!("QUORATE_{name}"), value.to_owned()))
    };
    let variables = translated.arguments.iter().filter_map(variable);
    let config = Settings::from_environment(variables).expect("known").resolve().expect("sound");
    assert_eq!(config.etcd.len(), 2);
    assert!(config.etcd.iter().chain(&config.peer).all(|one| one.transport == Transport::Tls));
    let clients = config.tls.clients.expect("TLS");
    assert!(clients.names_users && clients.trusted_ca_file.is_some());
    assert_eq!(config.tls.members.expect("TLS").purpose, crate::tls::Purpose::Members);
    assert_eq!(config.admin, plain(&["127.0.0.1:2381"]));
}
