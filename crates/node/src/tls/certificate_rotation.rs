//! Certificate Rotation: files are read again once they have changed, between two connections.
//!
//! Invariant: what is in use was whole and consistent when it was read; a change that is not (half
//! written, a key of another certificate, nonsense) leaves in use what was, and is complained about
//! once. Nothing is watched: who connects looks, at most once in an interval.

use super::certificate_names;
use super::{OwnCertificate, Purpose, TlsPort, Versions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};

/// Between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Certificates, keys and lists are small.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Protocols of the clients' port, told apart after the handshake as well.
const CLIENT_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Of the members' port: no client ends up there by accident.
const MEMBER_PROTOCOL: &[u8] = b"quorate-peer/1";

/// The certificates of one port; share it.
pub(crate) struct CertificateRotation {
    port: TlsPort,
    certificate: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
}

struct State {
    looked: Instant,
    /// Of each file, as it was before it was last read.
    seen: Vec<Option<Fingerprint>>,
    in_use: Arc<InUse>,
    /// The last one, so that one that repeats is told once.
    complaint: String,
}

/// Modification time, length and identity of a file.
type Fingerprint = (i64, i64, u64, u64, u64);

/// What new connections begin with.
pub(crate) struct InUse {
    pub(crate) server: Arc<ServerConfig>,
    /// For members, which also call.
    pub(crate) client: Option<Arc<ClientConfig>>,
}

impl CertificateRotation {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// One sentence about the file that cannot be used.
    pub(crate) fn load(port: TlsPort) -> Result<CertificateRotation, String> {
        let OwnCertificate::Files { certificate, key } = port.own.clone() else {
            unreachable!("a self-signed certificate is made, and then it is files");
        };
        let seen = fingerprints(&port, &certificate, &key);
        let in_use = Arc::new(read(&port, &certificate, &key)?);
        let state = State { looked: Instant::now(), seen, in_use, complaint: String::new() };
        Ok(CertificateRotation { port, certificate, key, state: Mutex::new(state) })
    }

    pub(crate) fn port(&self) -> &TlsPort {
        &self.port
    }

    /// What a connection that begins now is to use.
    pub(crate) fn in_use(&self) -> Arc<InUse> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_INTERVAL {
            self.look(&mut state);
            state.looked = Instant::now();
        }
        Arc::clone(&state.in_use)
    }

    /// As if the interval were over.
    #[cfg(test)]
    pub(crate) fn look_now(&self) {
        self.look(&mut self.state.lock().expect("no test panics holding it"));
    }

    fn look(&self, state: &mut State) {
        let now = fingerprints(&self.port, &self.certificate, &self.key);
        // A reading that failed may have met a writer: it is tried again.
        if now == state.seen && state.complaint.is_empty() {
            return;
        }
        let place = self.certificate.display();
        match read(&self.port, &self.certificate, &self.key) {
            Ok(in_use) => {
                tracing::info!("the certificates of {place} have changed and are in use");
                state.in_use = Arc::new(in_use);
                state.complaint.clear();
            }
            Err(complaint) if complaint != state.complaint => {
                tracing::warn!("the old certificates of {place} stay in use: {complaint}");
                state.complaint = complaint;
            }
            Err(_) => {}
        }
        state.seen = now;
    }

    /// What is asked of the other side's certificate beyond its chain.
    pub(crate) fn check(&self, certificate: Option<&CertificateDer<'_>>) -> Result<(), String> {
        certificate.map_or(Ok(()), |certificate| certificate_names::check(&self.port, certificate))
    }
}

fn fingerprints(port: &TlsPort, certificate: &Path, key: &Path) -> Vec<Option<Fingerprint>> {
    let others = [&port.trusted_ca_file, &port.crl_file];
    let others = others.into_iter().flatten().map(PathBuf::as_path);
    let files = [certificate, key].into_iter().chain(others);
    let fingerprint = |file: &Path| {
        let met = std::fs::metadata(file).ok()?;
        Some((met.mtime(), met.mtime_nsec(), met.len(), met.ino(), met.dev()))
    };
    files.map(fingerprint).collect()
}

fn read(port: &TlsPort, certificate: &Path, key: &Path) -> Result<InUse, String> {
    let provider = provider(&port.cipher_suites)?;
    let versions = versions(port.versions);
    let chain = certificates(certificate)?;
    let key_bytes = bytes(key)?;
    let key_of = || {
        PrivateKeyDer::from_pem_slice(&key_bytes)
            .map_err(|error| format!("{}: no private key: {error}", key.display()))
    };
    let unfit = |error: Error| {
        format!("{} and {} do not fit: {error}", certificate.display(), key.display())
    };
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("cipher-suites and TLS versions: {error}"))?;
    let roots = port.trusted_ca_file.as_deref().map(roots).transpose()?.map(Arc::new);
    let server = match &roots {
        None => server.with_no_client_auth(),
        Some(roots) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider.clone())
                    .with_crls(port.crl_file.as_deref().map_or(Ok(Vec::new()), revocations)?)
                    .only_check_end_entity_revocation()
                    .allow_unknown_revocation_status();
            let verifier = verifier.build().map_err(|error| format!("trusted CAs: {error}"))?;
            server.with_client_cert_verifier(verifier)
        }
    };
    let mut server = server.with_single_cert(chain.clone(), key_of()?).map_err(unfit)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = match port.purpose {
        Purpose::Clients => CLIENT_PROTOCOLS.map(<[u8]>::to_vec).to_vec(),
        Purpose::Members => vec![MEMBER_PROTOCOL.to_vec()],
    };
    let client = match port.purpose {
        Purpose::Clients => None,
        Purpose::Members => {
            let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)
                .map_err(|error| format!("cipher-suites and TLS versions: {error}"))?;
            let client = match roots {
                Some(roots) => client.with_root_certificates(roots),
                None => client
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Unverified(provider))),
            };
            let mut client = client.with_client_auth_cert(chain, key_of()?).map_err(unfit)?;
            client.resumption = Resumption::disabled();
            client.alpn_protocols = vec![MEMBER_PROTOCOL.to_vec()];
            Some(Arc::new(client))
        }
    };
    Ok(InUse { server: Arc::new(server), client })
}

fn bytes(file: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    if std::fs::metadata(file).map_err(cannot)?.len() > FILE_BYTES_MAX {
        return Err(format!("{} is larger than any certificate", file.display()));
    }
    std::fs::read(file).map_err(cannot)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = bytes(file)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{} holds no PEM certificate", file.display())),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{} cannot be trusted: {error}", file.display()))?;
    }
    Ok(roots)
}

fn revocations(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let bytes = bytes(file)?;
    let found = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| format!("{}: {error}", file.display()))?;
    // Not PEM: etcd takes the bare list.
    Ok(if found.is_empty() { vec![CertificateRevocationListDer::from(bytes)] } else { found })
}

static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

fn versions(versions: Versions) -> &'static [&'static SupportedProtocolVersion] {
    match versions {
        Versions::Both => &BOTH,
        Versions::Only13 => &BOTH[..1],
        Versions::Only12 => &BOTH[1..],
    }
}

/// The suites of TLS 1.3 are all sound, and are not for choosing; etcd's neither.
fn provider(suites: &[String]) -> Result<Arc<CryptoProvider>, String> {
    let mut provider = ring::default_provider();
    if suites.is_empty() {
        return Ok(Arc::new(provider));
    }
    let name = |suite: CipherSuite| suite.as_str().unwrap_or("").replace("TLS13_", "TLS_");
    let known: Vec<String> =
        provider.cipher_suites.iter().map(|suite| name(suite.suite())).collect();
    // Go calls two of them by a shorter name.
    let full = |suite: &String| match suite.strip_suffix("_CHACHA20_POLY1305") {
        Some(_) => format!("{suite}_SHA256"),
        None => suite.clone(),
    };
    let wanted: Vec<String> = suites.iter().map(full).collect();
    if let Some(strange) = wanted.iter().find(|suite| !known.contains(suite)) {
        return Err(format!("cipher-suites has {strange}; there are {}", known.join(", ")));
    }
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some() || wanted.contains(&name(suite.suite())));
    Ok(Arc::new(provider))
}

/// Members that made their certificates themselves: nothing can be verified but that the other
/// side holds the key of the one it shows.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
