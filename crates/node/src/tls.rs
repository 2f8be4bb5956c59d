//! Transport Layer Security for clients and members: who is on the other side, and that nobody
//! else reads or bends what is said.
//!
//! ```text
//! entrance: a handshake, bounded in time and number ─▶ secure_stream
//!    └─ certificate_rotation: the files, read again when they change
//!          ├─ certificate_names: whom a certificate speaks for
//!          └─ self_signed: certificates for trying out
//! ```
//! Every connection is verified anew: sessions are never resumed, so that a certificate which has
//! expired, was revoked, or whose authority is trusted no more opens no further connection. Those
//! that are open stay open. Not here: what a name may do (`store`), who the members are.

mod certificate_names;
mod certificate_rotation;
mod entrance;
mod secure_stream;
mod self_signed;
#[cfg(test)]
pub(crate) mod test_authority;
#[cfg(test)]
mod tests;

pub(crate) use certificate_names::{common_name, is_valid_for};
pub(crate) use certificate_rotation::CertificateRotation;
pub(crate) use entrance::{Entrance, NotLetIn, TlsEntrance};
pub(crate) use secure_stream::SecureStream;
pub(crate) use self_signed::make_self_signed;

use std::path::PathBuf;

/// Whom a port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clients of the etcd protocol.
    Clients,
    /// Members of the cluster, which also call.
    Members,
}

/// Versions of TLS that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// 1.2 and 1.3.
    Both,
    /// 1.2 alone.
    Only12,
    /// 1.3 alone.
    Only13,
}

/// The own certificate of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnCertificate {
    /// PEM files: the chain, own certificate first, and its key.
    Files {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// One that the node makes for itself, for trying out.
    SelfSigned {
        /// Names and addresses that it is valid for.
        hosts: Vec<String>,
        /// How long it is valid.
        years: u32,
    },
}

/// How one port proves who it is, and what it asks of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPort {
    /// Whom it serves.
    pub purpose: Purpose,
    /// What it shows.
    pub own: OwnCertificate,
    /// Whoever comes shows a certificate that one of these signed (PEM); `None`: needs none.
    pub trusted_ca_file: Option<PathBuf>,
    /// The common name of a client's certificate is its user.
    pub names_users: bool,
    /// Certificates that count no more (PEM or DER).
    pub crl_file: Option<PathBuf>,
    /// If not empty, a certificate must be valid for one of these.
    pub allowed_hostnames: Vec<String>,
    /// If not empty, a certificate must have one of these common names.
    pub allowed_common_names: Vec<String>,
    /// A member's certificate must be valid for the host at which the member is reached.
    pub checks_callers_host: bool,
    /// What is spoken.
    pub versions: Versions,
    /// Of TLS 1.2, if not empty, these alone.
    pub cipher_suites: Vec<String>,
}
