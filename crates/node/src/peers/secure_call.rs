//! The caller's side of TLS between members: the one called must hold a certificate for the host
//! that it is called at, signed by the cluster's authority.
//!
//! Not here: the called one's side, which only knows who calls once it was told (`handshake`).

use super::handshake::HandshakeError;
use crate::config::listen_url;
use crate::tls::{CertificateRotation, SecureStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};

/// The handshake of TLS takes no longer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Makes a connection to `address` secure.
pub(super) async fn secure(
    tls: &CertificateRotation,
    address: &str,
    stream: TcpStream,
) -> Result<SecureStream, HandshakeError> {
    let failed = |reason: &dyn std::fmt::Display| {
        HandshakeError::Failed(format!("no TLS with {address}: {reason}"))
    };
    let host = listen_url::host(address).to_owned();
    let name = ServerName::try_from(host).map_err(|error| failed(&error))?;
    let in_use = tls.in_use();
    let client = in_use.client.as_ref().expect("the members' port also calls");
    let connecting = TlsConnector::from(Arc::clone(client)).connect(name, stream);
    let connected = tokio::time::timeout(TIMEOUT, connecting).await.map_err(|e| failed(&e))?;
    let stream = connected.map_err(|error| failed(&error))?;
    let stream = SecureStream::Tls(Box::new(TlsStream::Client(stream)));
    tls.check(stream.certificate()).map_err(|reason| failed(&reason))?;
    Ok(stream)
}
