//! Certificates that a node makes for itself and signs itself: they encrypt, and prove nothing.
//!
//! ```text
//! key.pem cert.pem   as they are used
//! ends               until when they are valid, in seconds since 1970
//! ```
//! Invariant: `ends` is there only with a key and a certificate that belong together.

use super::{OwnCertificate, TlsPort};
use crate::private_files::{create_directory, create_file};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use std::io::{ErrorKind, Write};
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
    let ends = directory.join("ends");
    let now = SystemTime::now();
    if !(lasts(&ends, now) && key.exists() && certificate.exists()) {
        let end = now + YEAR * years;
        let (chain, secret) = generate(hosts.clone(), now, end)
            .map_err(|error| format!("cannot make a certificate for {hosts:?}: {error}"))?;
        create_directory(directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        remove(&ends)?;
        write(&key, &secret)?;
        write(&certificate, &chain)?;
        write(&ends, &seconds(end).to_string())?;
    }
    tracing::warn!(
        "{} is signed by this node alone: it is for trying out, since clients cannot tell this \
         node from another by it",
        certificate.display()
    );
    Ok(TlsPort { own: OwnCertificate::Files { certificate, key }, ..port })
}

/// By what was noted when it was made: settings and times of files may have changed since.
fn lasts(ends: &Path, now: SystemTime) -> bool {
    let text = std::fs::read_to_string(ends).unwrap_or_default();
    let end = text.trim().parse::<u64>();
    end.is_ok_and(|end| end > seconds(now + RENEW_BEFORE))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn generate(
    hosts: Vec<String>,
    now: SystemTime,
    end: SystemTime,
) -> Result<(String, String), rcgen::Error> {
    let mut parameters = CertificateParams::new(hosts)?;
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::OrganizationName, "quorate");
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // A clock that is behind must not refuse it.
    parameters.not_before = (now - Duration::from_secs(3600)).into();
    parameters.not_after = end.into();
    let key = KeyPair::generate()?;
    Ok((parameters.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Readable by this user alone, whatever was there before; whole, or not there.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let unfinished = path.with_extension("new");
    remove(&unfinished)?;
    let write = || {
        let mut file = create_file(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}
