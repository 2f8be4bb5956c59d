//! What the settings say about TLS: which ports have it, by which files, and that they are enough.

use super::Settings;
use super::listen_url;
use crate::tls::{OwnCertificate, Purpose, TlsPort, Versions};
use std::path::PathBuf;

/// Years that a self-signed certificate lasts when nothing else is set.
const DEFAULT_YEARS: u32 = 1;
/// Later than this a certificate's dates cannot say.
const YEARS_MAX: u32 = 1000;

/// Which ports have TLS, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The clients' port.
    pub clients: Option<TlsPort>,
    /// The members' port, and calls to others.
    pub members: Option<TlsPort>,
}

/// The settings of one port, by the names that people know them by.
struct Words<'a> {
    purpose: Purpose,
    prefix: &'static str,
    certificate: &'a Option<PathBuf>,
    key: &'a Option<PathBuf>,
    trusted_ca: &'a Option<PathBuf>,
    auth: bool,
    crl: &'a Option<PathBuf>,
    common_names: &'a Option<String>,
    hostnames: &'a Option<String>,
    auto: bool,
}

/// Reads and checks both ports.
pub(super) fn read(settings: &Settings) -> Result<TlsConfig, String> {
    let clients = Words {
        purpose: Purpose::Clients,
        prefix: "",
        certificate: &settings.cert_file,
        key: &settings.key_file,
        trusted_ca: &settings.trusted_ca_file,
        auth: settings.client_cert_auth.unwrap_or(false),
        crl: &settings.client_crl_file,
        common_names: &None,
        hostnames: &settings.client_cert_allowed_hostname,
        auto: settings.auto_tls.unwrap_or(false),
    };
    let members = Words {
        purpose: Purpose::Members,
        prefix: "peer-",
        certificate: &settings.peer_cert_file,
        key: &settings.peer_key_file,
        trusted_ca: &settings.peer_trusted_ca_file,
        auth: settings.peer_client_cert_auth.unwrap_or(false),
        crl: &settings.peer_crl_file,
        common_names: &settings.peer_cert_allowed_cn,
        hostnames: &settings.peer_cert_allowed_hostname,
        auto: settings.peer_auto_tls.unwrap_or(false),
    };
    Ok(TlsConfig { clients: clients.port(settings)?, members: members.port(settings)? })
}

impl Words<'_> {
    fn port(&self, settings: &Settings) -> Result<Option<TlsPort>, String> {
        let prefix = self.prefix;
        let own = match (self.certificate.clone(), self.key.clone()) {
            (Some(certificate), Some(key)) => OwnCertificate::Files { certificate, key },
            (None, None) if self.auto => self.self_signed(settings)?,
            (None, None) => return self.refuse_remains().map(|()| None),
            _ => return Err(format!("{prefix}cert-file and {prefix}key-file go together")),
        };
        let is_made = matches!(own, OwnCertificate::SelfSigned { .. });
        let needs_authority = self.auth
            || self.crl.is_some()
            || self.common_names.is_some()
            || self.hostnames.is_some()
            // Members call each other, and know each other by nothing else.
            || (self.purpose == Purpose::Members && !is_made);
        if needs_authority && self.trusted_ca.is_none() {
            return Err(format!("{prefix}trusted-ca-file is needed: whom else to believe?"));
        }
        if self.purpose == Purpose::Members && is_made && self.trusted_ca.is_some() {
            let sentence = "peer-auto-tls makes certificates that no peer-trusted-ca-file signs";
            return Err(sentence.to_owned());
        }
        let names = |list: &Option<String>| match list {
            Some(list) => list.split(',').map(|name| name.trim().to_owned()).collect(),
            None => Vec::new(),
        };
        Ok(Some(TlsPort {
            purpose: self.purpose,
            own,
            trusted_ca_file: self.trusted_ca.clone(),
            names_users: self.auth,
            crl_file: self.crl.clone(),
            allowed_hostnames: names(self.hostnames),
            allowed_common_names: names(self.common_names),
            checks_callers_host: !settings.peer_skip_client_san_verification.unwrap_or(false),
            versions: versions(settings)?,
            cipher_suites: names(&settings.cipher_suites),
        }))
    }

    /// Half of what TLS needs is a mistake, not a wish for none.
    fn refuse_remains(&self) -> Result<(), String> {
        let prefix = self.prefix;
        let given = [
            (self.trusted_ca.is_some(), "trusted-ca-file"),
            (self.auth, "client-cert-auth"),
            (self.crl.is_some() && prefix.is_empty(), "client-crl-file"),
            (self.crl.is_some() && !prefix.is_empty(), "crl-file"),
            (self.common_names.is_some(), "cert-allowed-cn"),
            (self.hostnames.is_some() && prefix.is_empty(), "client-cert-allowed-hostname"),
            (self.hostnames.is_some() && !prefix.is_empty(), "cert-allowed-hostname"),
        ];
        match given.iter().find(|(is_given, _)| *is_given) {
            None => Ok(()),
            Some((_, name)) => {
                Err(format!("{prefix}{name} needs {prefix}cert-file and {prefix}key-file"))
            }
        }
    }

    /// Valid for wherever the port is reached.
    fn self_signed(&self, settings: &Settings) -> Result<OwnCertificate, String> {
        let years = settings.self_signed_cert_validity.unwrap_or(DEFAULT_YEARS);
        if !(1..=YEARS_MAX).contains(&years) {
            let sentence = format!("self-signed-cert-validity must be 1 to {YEARS_MAX} years");
            return Err(sentence);
        }
        let lists = match self.purpose {
            Purpose::Clients => [&settings.etcd, &settings.advertise_etcd],
            Purpose::Members => [&settings.peer, &settings.initial_advertise_peer_urls],
        };
        let mut hosts: Vec<String> =
            ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().collect();
        for list in lists.into_iter().flatten() {
            let places = listen_url::places("a listener", list)?;
            hosts.extend(places.iter().map(|place| listen_url::host(&place.address).to_owned()));
        }
        hosts.sort_unstable();
        hosts.dedup();
        Ok(OwnCertificate::SelfSigned { hosts, years })
    }
}

fn versions(settings: &Settings) -> Result<Versions, String> {
    let least = settings.tls_min_version.as_deref().unwrap_or("TLS1.2");
    let most = settings.tls_max_version.as_deref().unwrap_or("TLS1.3");
    match (least, most) {
        ("TLS1.2", "TLS1.3") => Ok(Versions::Both),
        ("TLS1.2", "TLS1.2") => Ok(Versions::Only12),
        ("TLS1.3", "TLS1.3") => Ok(Versions::Only13),
        ("TLS1.3", "TLS1.2") => Err("tls-max-version is below tls-min-version".to_owned()),
        ("TLS1.2" | "TLS1.3", most) => Err(unknown_version("tls-max-version", most)),
        (least, _) => Err(unknown_version("tls-min-version", least)),
    }
}

fn unknown_version(setting: &str, said: &str) -> String {
    format!("{setting} is {said:?}; it should be TLS1.2 or TLS1.3")
}
