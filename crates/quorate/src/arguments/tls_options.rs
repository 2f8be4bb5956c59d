//! Options of `start` for TLS, by etcd's names.

use std::any::TypeId;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Args};
use node::Settings;

/// One port each for clients and for members (`peer-`). Files are read again when they change.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS", mut_args = switch)]
pub(crate) struct TlsOptions {
    /// PEM chain shown to clients.
    #[arg(long)]
    cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Authorities (PEM), one of which must have signed each client's certificate.
    #[arg(long)]
    trusted_ca_file: Option<PathBuf>,
    /// Take the common name of a client's certificate for its user.
    #[arg(long)]
    client_cert_auth: Option<bool>,
    /// Clients' certificates that count no more.
    #[arg(long)]
    client_crl_file: Option<PathBuf>,
    /// Hosts, for one of which each client's certificate must be valid.
    #[arg(long)]
    client_cert_allowed_hostname: Option<String>,
    /// Serve clients with a certificate made here, for trying out.
    #[arg(long)]
    auto_tls: Option<bool>,
    /// PEM chain shown to other nodes, served or called.
    #[arg(long)]
    peer_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    peer_key_file: Option<PathBuf>,
    /// Authorities (PEM), one of which must have signed each node's certificate.
    #[arg(long)]
    peer_trusted_ca_file: Option<PathBuf>,
    /// Said by peer-trusted-ca-file already.
    #[arg(long)]
    peer_client_cert_auth: Option<bool>,
    /// Nodes' certificates that count no more.
    #[arg(long)]
    peer_crl_file: Option<PathBuf>,
    /// Common names, one of which each node's certificate must have.
    #[arg(long)]
    peer_cert_allowed_cn: Option<String>,
    /// Hosts, for one of which each node's certificate must be valid.
    #[arg(long)]
    peer_cert_allowed_hostname: Option<String>,
    /// Talk to other nodes with a certificate made here, and believe any: for trying out.
    #[arg(long)]
    peer_auto_tls: Option<bool>,
    /// Let nodes in whose certificate is not valid for where they are reached.
    #[arg(long)]
    peer_skip_client_san_verification: Option<bool>,
    /// Years that certificates made here are valid [default: 1].
    #[arg(long)]
    self_signed_cert_validity: Option<u32>,
    /// TLS1.2 or TLS1.3 [default: TLS1.2].
    #[arg(long)]
    tls_min_version: Option<String>,
    /// TLS1.2 or TLS1.3 [default: TLS1.3].
    #[arg(long)]
    tls_max_version: Option<String>,
    /// Of TLS 1.2, the suites that are spoken, separated by commas [default: all sound ones].
    #[arg(long)]
    cipher_suites: Option<String>,
}

/// What takes true or false takes it as Go's flags do: `--auto-tls` is true, `--auto-tls=false` may
/// be said, and the next word is another argument.
fn switch(option: Arg) -> Arg {
    let takes_bool = option.get_value_parser().type_id() == TypeId::of::<bool>();
    if !takes_bool || !matches!(option.get_action(), ArgAction::Set) {
        return option;
    }
    option
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(BoolishValueParser::new())
}

impl TlsOptions {
    /// A layer of settings that says nothing else.
    pub(crate) fn settings(self) -> Settings {
        Settings {
            cert_file: self.cert_file,
            key_file: self.key_file,
            trusted_ca_file: self.trusted_ca_file,
            client_cert_auth: self.client_cert_auth,
            client_crl_file: self.client_crl_file,
            client_cert_allowed_hostname: self.client_cert_allowed_hostname,
            auto_tls: self.auto_tls,
            peer_cert_file: self.peer_cert_file,
            peer_key_file: self.peer_key_file,
            peer_trusted_ca_file: self.peer_trusted_ca_file,
            peer_client_cert_auth: self.peer_client_cert_auth,
            peer_crl_file: self.peer_crl_file,
            peer_cert_allowed_cn: self.peer_cert_allowed_cn,
            peer_cert_allowed_hostname: self.peer_cert_allowed_hostname,
            peer_auto_tls: self.peer_auto_tls,
            peer_skip_client_san_verification: self.peer_skip_client_san_verification,
            self_signed_cert_validity: self.self_signed_cert_validity,
            tls_min_version: self.tls_min_version,
            tls_max_version: self.tls_max_version,
            cipher_suites: self.cipher_suites,
            ..Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tls: TlsOptions,
        /// A switch that is none of ours.
        #[arg(long)]
        plain: bool,
        word: Option<String>,
    }

    #[test]
    fn a_switch_is_said_as_with_etcd() {
        let parse = |words: &str| Line::try_parse_from(words.split(' '));
        for (words, auto_tls) in [
            ("q --plain", None),
            ("q --auto-tls --plain", Some(true)),
            ("q --auto-tls=false --plain", Some(false)),
            ("q --auto-tls=1 --plain", Some(true)),
        ] {
            let line = parse(words).expect("sound");
            assert_eq!((line.tls.auto_tls, line.plain), (auto_tls, true), "{words}");
        }
        let line = parse("q --peer-auto-tls false").expect("sound");
        assert_eq!((line.tls.peer_auto_tls, line.word.as_deref()), (Some(true), Some("false")));
        parse("q --auto-tls=perhaps").expect_err("neither");
        parse("q --plain=false").expect_err("it takes no value");
    }
}
