//! Certificates that a node makes for itself and signs itself: they encrypt, and prove nothing.

use super::{OwnCertificate, TlsPort};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// One that ends sooner than this is made anew at a start.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Turns a self-signed port into one with files in `directory`, made unless they are there and
/// last.
///
/// # Errors
/// One sentence about the file that cannot be written.
pub(crate) fn make_self_signed(port: TlsPort, directory: &Path) -> Result<TlsPort, String> {
    let OwnCertificate::SelfSigned { hosts, years } = port.own else { return Ok(port) };
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    if !lasts(&certificate, &key, YEAR * years) {
        let (chain, secret) = generate(hosts.clone(), YEAR * years)
            .map_err(|error| format!("cannot make a certificate for {hosts:?}: {error}"))?;
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        write(&key, &secret)?;
        write(&certificate, &chain)?;
    }
    tracing::warn!(
        "{} is signed by this node alone: it is for trying out, since clients cannot tell this \
         node from another by it",
        certificate.display()
    );
    Ok(TlsPort { own: OwnCertificate::Files { certificate, key }, ..port })
}

fn lasts(certificate: &Path, key: &Path, validity: Duration) -> bool {
    let made = std::fs::metadata(certificate).and_then(|found| found.modified());
    let age = made.ok().and_then(|made| made.elapsed().ok());
    key.exists() && age.is_some_and(|age| age + RENEW_BEFORE < validity)
}

fn generate(hosts: Vec<String>, validity: Duration) -> Result<(String, String), rcgen::Error> {
    let mut parameters = CertificateParams::new(hosts)?;
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::OrganizationName, "quorate");
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    // A clock that is behind must not refuse it.
    parameters.not_before = (now - Duration::from_secs(3600)).into();
    parameters.not_after = now.checked_add(validity).map_or(date_time_ymd(4096, 1, 1), Into::into);
    let key = KeyPair::generate()?;
    Ok((parameters.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Readable by this user alone.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(path).and_then(|mut file: File| file.write_all(text.as_bytes()));
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}
