//! Handshakes over loopback: who is let in, who is not, and what happens when files change.

use super::test_authority::{Issued, TestAuthority, Wanted};
use super::*;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};

const HOST: &[&str] = &["127.0.0.1", "localhost"];

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(future)
}

fn wanted<'a>(common_name: &'a str) -> Wanted<'a> {
    Wanted { hosts: HOST, common_name, ..Wanted::default() }
}

fn rotation(port: TlsPort) -> Arc<CertificateRotation> {
    Arc::new(CertificateRotation::load(port).expect("sound files"))
}

/// A caller that shows `own` and believes `authority`.
fn caller(authority: &TestAuthority, own: &Issued) -> Arc<CertificateRotation> {
    rotation(authority.port(Purpose::Members, own))
}

/// One connection, as both sides see it: what the caller was told, and the common name that the
/// called one read, or why it did not let it in.
async fn meet(
    entrance: &Arc<TlsEntrance>,
    caller: &CertificateRotation,
) -> (Result<(), String>, Result<Option<String>, String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let called = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        let admitted = Entrance::Tls(Arc::clone(entrance)).admit(stream).await;
        let mut stream = admitted.map_err(|reason| reason.to_string())?;
        let name = stream.certificate().and_then(|shown| common_name(shown));
        stream.write_all(b"hello").await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())?;
        Ok(name)
    };
    let calling = async {
        let stream = TcpStream::connect(address).await.expect("connected");
        let client = Arc::clone(caller.in_use().client.as_ref().expect("members call"));
        let name = ServerName::try_from("localhost").expect("a name");
        let connected = TlsConnector::from(client).connect(name, stream).await;
        let stream = connected.map_err(|error| error.to_string())?;
        let mut stream = SecureStream::Tls(Box::new(TlsStream::Client(stream)));
        let mut said = Vec::new();
        // Under TLS 1.3 the caller learns only now that it was refused.
        let read = stream.read_to_end(&mut said).await;
        read.map_err(|error| error.to_string())?;
        assert_eq!(said, b"hello");
        Ok(())
    };
    tokio::join!(calling, called)
}

fn entrance(rotation: &Arc<CertificateRotation>) -> Arc<TlsEntrance> {
    Arc::new(TlsEntrance::new(Arc::clone(rotation)))
}

#[test]
fn a_certificate_of_the_authority_is_let_in_and_named_and_others_are_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(directory.path(), "authority");
    let stranger = TestAuthority::new(directory.path(), "stranger");
    let own = authority.issue("server", &wanted("server"));
    let entrance = entrance(&rotation(authority.port(Purpose::Members, &own)));
    let good = authority.issue("good", &wanted("alice"));
    let strange = stranger.issue("strange", &wanted("alice"));
    let expired = Wanted { is_expired: true, ..wanted("alice") };
    let expired = authority.issue("expired", &expired);
    block_on(async {
        let (told, read) = meet(&entrance, &caller(&authority, &good)).await;
        assert_eq!((told, read), (Ok(()), Ok(Some("alice".to_owned()))));
        for (bad, word) in [(&strange, "UnknownIssuer"), (&expired, "expired")] {
            let (told, read) = meet(&entrance, &caller(&authority, bad)).await;
            let reason = read.expect_err("a bad certificate");
            assert!(reason.contains(word), "{reason}");
            told.expect_err("it hears of it");
        }
        // The other way round: the caller refuses a server that it has no reason to believe.
        let (told, _) = meet(&entrance, &caller(&stranger, &strange)).await;
        assert!(told.expect_err("an unknown server").contains("UnknownIssuer"));
    });
}

#[test]
fn a_certificate_for_another_host_is_refused_by_its_caller() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(directory.path(), "authority");
    let elsewhere = Wanted { hosts: &["n2.example"], ..Wanted::default() };
    let own = authority.issue("server", &elsewhere);
    let entrance = entrance(&rotation(authority.port(Purpose::Members, &own)));
    let good = authority.issue("good", &wanted("alice"));
    let (told, _) = block_on(meet(&entrance, &caller(&authority, &good)));
    assert!(told.expect_err("another host").contains("not valid for name"));
}

#[test]
fn names_that_are_not_allowed_and_certificates_that_were_revoked_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(directory.path(), "authority");
    let own = authority.issue("server", &wanted("server"));
    let port = authority.port(Purpose::Members, &own);
    let seventh = authority.issue("seventh", &Wanted { serial: 7, ..wanted("server") });
    let eighth = authority.issue("eighth", &Wanted { serial: 8, ..wanted("server") });
    let other = authority.issue("other", &wanted("other"));
    let names = TlsPort { allowed_common_names: vec!["server".to_owned()], ..port.clone() };
    let hosts = TlsPort { allowed_hostnames: vec!["a.example".to_owned()], ..port.clone() };
    let revoked = TlsPort { crl_file: Some(authority.revoke("crl", 7)), ..port };
    block_on(async {
        let refused = async |port: &TlsPort, own: &Issued| {
            let (_, read) =
                meet(&entrance(&rotation(port.clone())), &caller(&authority, own)).await;
            read.err().unwrap_or_default()
        };
        assert_eq!(refused(&names, &seventh).await, "");
        assert!(refused(&names, &other).await.contains("\"other\", is not allowed"));
        assert!(refused(&hosts, &seventh).await.contains("is not valid for a.example"));
        assert!(refused(&revoked, &seventh).await.contains("Revoked"));
        assert_eq!(refused(&revoked, &eighth).await, "");
    });
}

#[test]
fn changed_files_are_used_by_new_connections_and_broken_ones_are_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let old = TestAuthority::new(directory.path(), "old");
    let new = TestAuthority::new(directory.path(), "new");
    let own = old.issue("server", &wanted("server"));
    let port = old.port(Purpose::Members, &own);
    let bundle = directory.path().join("bundle.pem");
    std::fs::copy(&old.certificate, &bundle).expect("copied");
    let rotation = rotation(TlsPort { trusted_ca_file: Some(bundle.clone()), ..port });
    let entrance = entrance(&rotation);
    let (of_old, of_new) = (old.issue("o", &wanted("o")), new.issue("n", &wanted("n")));
    let (of_old, of_new) = (caller(&old, &of_old), caller(&new, &of_new));
    block_on(async {
        assert_eq!(meet(&entrance, &of_old).await.1, Ok(Some("o".to_owned())));
        meet(&entrance, &of_new).await.0.expect_err("not trusted yet");
        // Half of a rotation: the certificate is new, the key is not yet.
        let next = new.issue("next", &wanted("server"));
        std::fs::copy(&next.certificate, &own.certificate).expect("copied");
        rotation.look_now();
        assert_eq!(meet(&entrance, &of_old).await.0, Ok(()), "the old one stays in use");
        std::fs::write(&bundle, "nonsense").expect("written");
        rotation.look_now();
        assert_eq!(meet(&entrance, &of_old).await.0, Ok(()), "the old ones stay in use");
        // All of it.
        std::fs::copy(&next.key, &own.key).expect("copied");
        std::fs::copy(&new.certificate, &bundle).expect("copied");
        rotation.look_now();
        assert_eq!(meet(&entrance, &of_new).await, (Ok(()), Ok(Some("n".to_owned()))));
        meet(&entrance, &of_old).await.0.expect_err("trusted no more");
    });
}

#[test]
fn clients_without_tls_are_told_and_silent_ones_cost_no_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(directory.path(), "authority");
    let own = authority.issue("server", &wanted("server"));
    let secure = Entrance::Tls(entrance(&rotation(authority.port(Purpose::Clients, &own))));
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        for (entrance, first, word) in [
            (&secure, b"GET / HTTP/1.1\r\n\r\n".as_slice(), "say https://"),
            (&secure, b"PRI * HTTP/2.0\r\n\r\n", "say https://"),
            (&Entrance::Plain, b"\x16\x03\x01", "say http://"),
            (&secure, b"\x16\x03\x01\x00\x05nonsense", "TLS handshake: "),
        ] {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.write_all(first).await.expect("written");
            let (accepted, _) = listener.accept().await.expect("accepted");
            let refusal = entrance.admit(accepted).await.err().expect("not let in");
            assert!(refusal.to_string().contains(word), "{refusal}");
        }
        let gone = TcpStream::connect(address).await.expect("connected");
        drop(gone);
        let (accepted, _) = listener.accept().await.expect("accepted");
        let refusal = secure.admit(accepted).await.err().expect("not let in");
        assert!(matches!(refusal, NotLetIn::Silent), "{refusal}");
    });
}

#[test]
fn no_more_handshakes_are_under_way_than_places_and_nobody_blocks_one_for_long() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(directory.path(), "authority");
    let own = authority.issue("server", &wanted("server"));
    let rotation = rotation(authority.port(Purpose::Members, &own));
    let entrance = Arc::new(TlsEntrance::narrow(Arc::clone(&rotation)));
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut stuck = TcpStream::connect(address).await.expect("connected");
        stuck.write_all(b"\x16").await.expect("written");
        let (accepted, _) = listener.accept().await.expect("accepted");
        let door = Entrance::Tls(Arc::clone(&entrance));
        let stuck_here = tokio::spawn(async move { door.admit(accepted).await.err() });
        let next = meet(&entrance, &rotation);
        tokio::pin!(next);
        let wait = std::time::Duration::from_millis(300);
        assert!(tokio::time::timeout(wait, &mut next).await.is_err(), "there is but one place");
        assert_eq!(next.await.0, Ok(()), "it is still there, but has had its time");
        let reason = stuck_here.await.expect("no panic").expect("not let in");
        assert!(reason.to_string().contains("while others waited"), "{reason}");
    });
}

#[test]
fn only_the_versions_and_suites_that_were_set_are_spoken() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(directory.path(), "authority");
    let own = authority.issue("server", &wanted("server"));
    let port = authority.port(Purpose::Members, &own);
    let speaks = |versions, suites: &[&str]| {
        let cipher_suites = suites.iter().map(|suite| (*suite).to_owned()).collect();
        CertificateRotation::load(TlsPort { versions, cipher_suites, ..port.clone() })
    };
    let strong = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    let other = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305";
    let old = Arc::new(speaks(Versions::Only12, &[strong]).expect("known"));
    let new = Arc::new(speaks(Versions::Only13, &[]).expect("known"));
    let differs = Arc::new(speaks(Versions::Only12, &[other]).expect("Go's name for it"));
    let refusal = speaks(Versions::Both, &["TLS_RSA_WITH_RC4_128_SHA"]).err().expect("unknown");
    assert!(refusal.contains("TLS_RSA_WITH_RC4_128_SHA"), "{refusal}");
    block_on(async {
        assert_eq!(meet(&entrance(&old), &old).await.0, Ok(()));
        assert_eq!(meet(&entrance(&new), &new).await.0, Ok(()));
        meet(&entrance(&old), &new).await.0.expect_err("another version");
        meet(&entrance(&old), &differs).await.0.expect_err("another suite");
    });
}

#[test]
fn what_cannot_be_used_at_the_start_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(directory.path(), "authority");
    let (own, other) = (authority.issue("a", &wanted("a")), authority.issue("b", &wanted("b")));
    let mixed = Issued { key: other.key.clone(), ..own.clone() };
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "").expect("written");
    let nothing = Issued { certificate: empty, ..own.clone() };
    let missing = Issued { certificate: directory.path().join("missing"), ..own };
    for (issued, word) in [(mixed, "do not fit"), (nothing, "no PEM"), (missing, "cannot read")] {
        let loaded = CertificateRotation::load(authority.port(Purpose::Clients, &issued));
        let sentence = loaded.err().expect("unusable");
        assert!(sentence.contains(word) && !sentence.contains('\n'), "{sentence}");
    }
}

#[test]
fn a_self_signed_certificate_is_made_once_and_kept_from_others() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("fixtures/client");
    let authority = TestAuthority::new(directory.path(), "authority");
    let own = OwnCertificate::SelfSigned { hosts: vec!["localhost".to_owned()], years: 1 };
    let port = TlsPort {
        own,
        trusted_ca_file: None,
        ..authority.port(Purpose::Members, &authority.issue("x", &wanted("x")))
    };
    let made = make_self_signed(port.clone(), &place).expect("made");
    let mode = std::fs::metadata(place.join("key.pem")).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let first = std::fs::read(place.join("cert.pem")).expect("a certificate");
    let longer = OwnCertificate::SelfSigned { hosts: vec!["localhost".to_owned()], years: 10 };
    make_self_signed(TlsPort { own: longer, ..port.clone() }, &place).expect("there");
    assert_eq!(std::fs::read(place.join("cert.pem")).expect("a certificate"), first);
    // It ends when it ends, whatever is set by then, and is not left to others to read.
    let day = std::time::Duration::from_secs(24 * 3600);
    let soon = std::time::SystemTime::now() + 29 * day;
    let soon = soon.duration_since(std::time::SystemTime::UNIX_EPOCH).expect("after 1970");
    std::fs::write(place.join("ends"), soon.as_secs().to_string()).expect("written");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(place.join("key.pem"), open).expect("set");
    let made = TlsPort { own: made.own, ..make_self_signed(port, &place).expect("made anew") };
    assert_ne!(std::fs::read(place.join("cert.pem")).expect("a certificate"), first);
    assert_eq!(crate::private_files::mode_of(&place.join("key.pem")), 0o600);
    // Members with such certificates believe each other.
    let rotation = rotation(made);
    assert_eq!(block_on(meet(&entrance(&rotation), &rotation)).0, Ok(()));
}

#[test]
fn no_certificate_however_broken_is_more_than_nameless() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = TestAuthority::new(directory.path(), "authority");
    let issued = authority.issue("server", &wanted("Jürgen"));
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    let sound = CertificateDer::from_pem_file(&issued.certificate).expect("PEM");
    assert_eq!(common_name(&sound).as_deref(), Some("Jürgen"));
    assert!(is_valid_for(&sound, "127.0.0.1") && is_valid_for(&sound, "localhost"));
    assert!(!is_valid_for(&sound, "::1") && !is_valid_for(&sound, "not a host"));
    for length in 0..sound.len() {
        assert_eq!(common_name(&sound[..length]), None);
    }
    for at in 0..sound.len() {
        for bit in 0..8 {
            let mut bent = sound.to_vec();
            bent[at] ^= 1 << bit;
            // Whatever it says, it says it without a panic, and says nothing empty.
            assert_ne!(common_name(&bent).as_deref(), Some(""));
            is_valid_for(&CertificateDer::from(bent), "localhost");
        }
    }
}
