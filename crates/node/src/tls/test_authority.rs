//! An authority for tests: signs whatever it is asked to.

use super::{OwnCertificate, Purpose, TlsPort, Versions};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What a certificate says.
#[derive(Clone, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) hosts: &'a [&'a str],
    pub(crate) common_name: &'a str,
    pub(crate) is_expired: bool,
    pub(crate) serial: u64,
}

pub(crate) struct TestAuthority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl TestAuthority {
    /// Keeps its files, and those it issues, in `directory`, by the name of `name`.
    pub(crate) fn new(directory: &Path, name: &str) -> TestAuthority {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let own = parameters.self_signed(&key).expect("signed");
        let certificate = directory.join(format!("{name}.pem"));
        std::fs::write(&certificate, own.pem()).expect("written");
        let issuer = Issuer::new(parameters, key);
        TestAuthority { directory: directory.to_path_buf(), issuer, certificate }
    }

    pub(crate) fn issue(&self, file: &str, wanted: &Wanted<'_>) -> Issued {
        let hosts: Vec<String> = wanted.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut parameters = CertificateParams::new(hosts).expect("names");
        parameters.distinguished_name.remove(DnType::CommonName);
        if !wanted.common_name.is_empty() {
            parameters.distinguished_name.push(DnType::CommonName, wanted.common_name);
        }
        if wanted.is_expired {
            parameters.not_after = date_time_ymd(2020, 1, 1);
        }
        if wanted.serial != 0 {
            parameters.serial_number = Some(SerialNumber::from(wanted.serial));
        }
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let secret = KeyPair::generate().expect("a key");
        let signed = parameters.signed_by(&secret, &self.issuer).expect("signed");
        let path = |end: &str| self.directory.join(format!("{file}.{end}"));
        let issued = Issued { certificate: path("crt"), key: path("key") };
        std::fs::write(&issued.key, secret.serialize_pem()).expect("written");
        std::fs::write(&issued.certificate, signed.pem()).expect("written");
        issued
    }

    /// A list that revokes one serial number.
    pub(crate) fn revoke(&self, file: &str, serial: u64) -> PathBuf {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.directory.join(file);
        let signed = list.signed_by(&self.issuer).expect("signed");
        std::fs::write(&path, signed.pem().expect("PEM")).expect("written");
        path
    }

    /// A port that shows `own` and believes this authority.
    pub(crate) fn port(&self, purpose: Purpose, own: &Issued) -> TlsPort {
        TlsPort {
            purpose,
            own: OwnCertificate::Files {
                certificate: own.certificate.clone(),
                key: own.key.clone(),
            },
            trusted_ca_file: Some(self.certificate.clone()),
            names_users: true,
            crl_file: None,
            allowed_hostnames: Vec::new(),
            allowed_common_names: Vec::new(),
            checks_callers_host: true,
            versions: Versions::Both,
            cipher_suites: Vec::new(),
        }
    }

    /// What a client goes by that believes this authority.
    pub(crate) fn client(&self, own: Option<&Issued>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(&self.certificate).expect("PEM");
        roots.add(authority).expect("an authority");
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let client = client.with_safe_default_protocol_versions().expect("versions");
        let client = client.with_root_certificates(roots);
        Arc::new(match own {
            None => client.with_no_client_auth(),
            Some(own) => {
                let shown = CertificateDer::from_pem_file(&own.certificate).expect("PEM");
                let key = PrivateKeyDer::from_pem_file(&own.key).expect("PEM");
                client.with_client_auth_cert(vec![shown], key).expect("they fit")
            }
        })
    }
}
