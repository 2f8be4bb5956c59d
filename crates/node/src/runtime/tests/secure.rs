//! Whole nodes under TLS.

use super::*;
use crate::tls::test_authority::{Issued, TestAuthority, Wanted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

const LOOPBACK: Wanted<'static> =
    Wanted { hosts: &["127.0.0.1"], common_name: "", is_expired: false, serial: 0 };

fn peer_lines(authority: &TestAuthority, own: &Issued) -> String {
    format!(
        "peer-cert-file = '{}'\npeer-key-file = '{}'\npeer-trusted-ca-file = '{}'\n\
         peer-client-cert-auth = true\n",
        own.certificate.display(),
        own.key.display(),
        authority.certificate.display()
    )
}

/// The answer to `GET path`, or why there is none.
async fn https_get(
    address: SocketAddr,
    client: Arc<tokio_rustls::rustls::ClientConfig>,
    path: &str,
) -> Result<String, std::io::Error> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let mut stream = TlsConnector::from(client).connect(name, stream).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[test]
fn three_nodes_under_tls_elect_replicate_and_shut_out_a_wrong_certificate() {
    let files = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(files.path(), "authority");
    let stranger = TestAuthority::new(files.path(), "stranger");
    let own = authority.issue("member", &LOOPBACK);
    let good = peer_lines(&authority, &own);
    let bad = peer_lines(&stranger, &stranger.issue("strange", &LOOPBACK));
    let mut plan = Plan::new(24_080..24_083).with(&good);
    let mut nodes: Vec<Node> = (0..2).map(|member| plan.start(member)).collect();
    plan.lines = bad;
    let shut_out = plan.start(2);
    for (at, node) in nodes.iter().enumerate() {
        write(node, &format!("key {at}"), "value");
    }
    assert_eq!(read(&nodes[0], "key 1").as_deref(), Some("value"));
    // The two have elected a leader and written meanwhile: it would have heard of it.
    assert_eq!(shut_out.handle().leader(GroupId::KEYSPACE), None);
    shut_out.stop().expect("stops");
    plan.lines = good;
    nodes.push(plan.start(2));
    assert_eq!(read(&nodes[2], "key 0").as_deref(), Some("value"), "it catches up");
    let leads = leader(&nodes.iter().collect::<Vec<_>>());
    let leads = nodes.iter().position(|node| node.handle().member_id() == leads);
    nodes.remove(leads.expect("one of them")).stop().expect("stops");
    write(&nodes[0], "after", "failover");
    assert_eq!(read(&nodes[1], "after").as_deref(), Some("failover"));
}

#[test]
fn a_member_whose_certificate_is_for_another_host_is_refused() {
    let files = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(files.path(), "authority");
    let own = authority.issue("member", &LOOPBACK);
    let elsewhere = Wanted { hosts: &["n1.example"], ..LOOPBACK };
    let elsewhere = authority.issue("elsewhere", &elsewhere);
    let mut plan = Plan::new(24_090..24_092).with(&peer_lines(&authority, &own));
    let first = plan.start(0);
    plan.lines = peer_lines(&authority, &elsewhere);
    let second = plan.start(1);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(first.handle().leader(GroupId::KEYSPACE), None, "no two of them talk");
    second.stop().expect("stops");
    plan.lines = peer_lines(&authority, &own);
    let second = plan.start(1);
    write(&second, "key", "value");
    assert_eq!(read(&first, "key").as_deref(), Some("value"));
}

#[test]
fn clients_are_served_under_tls_and_only_with_a_certificate_if_one_is_asked_for() {
    let files = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(files.path(), "authority");
    let own = authority.issue("server", &LOOPBACK);
    let lines = format!(
        "cert-file = '{}'\nkey-file = '{}'\ntrusted-ca-file = '{}'\nclient-cert-auth = true\n",
        own.certificate.display(),
        own.key.display(),
        authority.certificate.display()
    );
    let plan = Plan::new([24_100]).with(&lines);
    let node = plan.start(0);
    write(&node, "key", "value");
    let address = node.addresses().etcd;
    assert_eq!(node.handle().identity().client_urls, [format!("https://{address}")]);
    block_on(async {
        let shown = authority.issue("client", &Wanted { common_name: "alice", ..LOOPBACK });
        let health = https_get(address, authority.client(Some(&shown)), "/health").await;
        assert!(health.expect("an answer").contains("200 OK"));
        https_get(address, authority.client(None), "/health").await.expect_err("no certificate");
    });
    let told = http_get(address, "/health");
    assert!(told.starts_with("HTTP/1.0 400") && told.contains("use https"), "{told}");
    // Operators on the machine itself need no certificate.
    assert!(http_get(node.addresses().admin, "/health").contains("\"true\""));
    node.stop().expect("stops");
}

#[test]
fn auto_tls_serves_clients_and_members_without_any_file_given() {
    let plan = Plan::new(24_110..24_112).with("auto-tls = true\npeer-auto-tls = true\n");
    let nodes: Vec<Node> = (0..2).map(|member| plan.start(member)).collect();
    write(&nodes[1], "key", "value");
    assert_eq!(read(&nodes[0], "key").as_deref(), Some("value"));
    for port in ["client", "peer"] {
        assert!(plan.directory(0).join("fixtures").join(port).join("key.pem").exists());
    }
    assert!(http_get(nodes[0].addresses().etcd, "/health").contains("use https"));
}

/// A request on a connection that stays open.
async fn ask_again(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> String {
    let request = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.expect("written");
    let mut answer = String::new();
    while !answer.contains("\r\n\r\n{") || !answer.ends_with('}') {
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes).await.expect("read");
        assert_ne!(length, 0, "closed after {answer:?}");
        answer.push_str(str::from_utf8(&bytes[..length]).expect("text"));
    }
    answer
}

#[test]
fn certificates_are_exchanged_while_clients_are_connected() {
    let files = tempfile::tempdir().expect("a directory");
    let (old, new) =
        (TestAuthority::new(files.path(), "old"), TestAuthority::new(files.path(), "new"));
    let own = old.issue("server", &LOOPBACK);
    let lines = format!(
        "cert-file = '{}'\nkey-file = '{}'\n",
        own.certificate.display(),
        own.key.display()
    );
    let plan = Plan::new([24_120]).with(&lines);
    let node = plan.start(0);
    write(&node, "key", "value");
    let address = node.addresses().etcd;
    block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let connected = TlsConnector::from(old.client(None)).connect(name, stream).await;
        let mut kept = connected.expect("the old authority");
        assert!(ask_again(&mut kept).await.contains("200 OK"));
        let next = new.issue("next", &LOOPBACK);
        std::fs::copy(&next.certificate, &own.certificate).expect("copied");
        std::fs::copy(&next.key, &own.key).expect("copied");
        let until = Instant::now() + PATIENCE;
        while let Err(error) = https_get(address, new.client(None), "/version").await {
            assert!(Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        https_get(address, old.client(None), "/version").await.expect_err("signed by another");
        assert!(ask_again(&mut kept).await.contains("200 OK"), "open connections stay open");
    });
    node.stop().expect("stops");
}
