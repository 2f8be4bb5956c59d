//! An authority of a local cluster's own, and the certificates of its members: for trying TLS out
//! without a public key infrastructure.
//!
//! The authority's key is forgotten once everything is signed: whoever reads the directory can pose
//! as a member, and sign nothing new.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Where the members of every local cluster are reached.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Files of one local cluster.
#[derive(Debug, Clone)]
pub struct LocalCertificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// Shown by every member, to clients and to each other.
    pub member: PathBuf,
    /// Its key.
    pub member_key: PathBuf,
}

impl LocalCertificates {
    /// Makes them in `directory`, unless they are there.
    ///
    /// # Errors
    /// One sentence about what cannot be written.
    pub fn make(directory: &Path) -> Result<LocalCertificates, String> {
        let files = LocalCertificates {
            authority: directory.join("ca.pem"),
            member: directory.join("member.pem"),
            member_key: directory.join("member-key.pem"),
        };
        // Written last.
        if files.authority.exists() {
            return Ok(files);
        }
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        let signed = sign().map_err(|error| format!("cannot make certificates: {error}"))?;
        let paths = [&files.member_key, &files.member, &files.authority];
        for (path, text) in paths.into_iter().zip(signed) {
            write_secret(path, &text)?;
        }
        Ok(files)
    }

    /// Options of a member; etcd's have the same names.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let options = [
            ("--cert-file", &self.member),
            ("--key-file", &self.member_key),
            ("--peer-cert-file", &self.member),
            ("--peer-key-file", &self.member_key),
            ("--peer-trusted-ca-file", &self.authority),
        ];
        let words = options.map(|(flag, path)| [flag.to_owned(), path.display().to_string()]);
        let mut words: Vec<String> = words.into_iter().flatten().collect();
        words.push("--peer-client-cert-auth".to_owned());
        words
    }
}

/// A member's key, its certificate, and the authority's.
fn sign() -> Result<[String; 3], rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "quorate dev");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let mut member = CertificateParams::new(HOSTS.map(str::to_owned).to_vec())?;
    member.distinguished_name.push(DnType::CommonName, "member");
    member.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let member_key = KeyPair::generate()?;
    let member_pem = member.signed_by(&member_key, &issuer)?.pem();
    Ok([member_key.serialize_pem(), member_pem, authority_pem])
}

/// Readable by this user alone.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}
