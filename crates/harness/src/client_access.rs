//! By what a client is let in: whom it believes, what it shows, and who it says it is.
//!
//! Not here: the conversation (`member_client`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::proto::etcdserverpb::AuthenticateRequest;
use crate::proto::etcdserverpb::auth_client::AuthClient;

/// How long a connection may take to come about.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A channel on which every request carries the caller's token, if it has one.
pub(crate) type Transport = InterceptedService<Channel, Bearer>;

/// Connects plainly unless told otherwise; clones share what was read.
#[derive(Debug, Clone, Default)]
pub struct ClientAccess {
    tls: Option<Arc<ClientTls>>,
    user: Option<Arc<User>>,
}

#[derive(Debug)]
struct ClientTls {
    /// PEM.
    authority: Vec<u8>,
    /// Certificate and key, PEM.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

struct User {
    name: String,
    password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User {{ name: {:?}, .. }}", self.name)
    }
}

/// Something to talk HTTP over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl ClientAccess {
    /// Reads what etcdctl's options of these names say.
    ///
    /// # Errors
    /// One sentence about the option or file that is wrong.
    pub fn read(
        cacert: Option<&Path>,
        cert: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<ClientAccess, String> {
        let bytes = |path: &Path| {
            std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let own = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((bytes(cert)?, bytes(key)?)),
            _ => return Err("--cert and --key go together".to_owned()),
        };
        let tls = match (cacert, own) {
            (None, None) => None,
            (None, Some(_)) => return Err("--cert needs --cacert: whom to believe?".to_owned()),
            (Some(authority), own) => Some(ClientTls { authority: bytes(authority)?, own }),
        };
        let access = ClientAccess { tls: tls.map(Arc::new), user: None };
        // Nonsense is told now, not at the first connection.
        access.tls.as_ref().map_or(Ok(()), |tls| tls.config().map(drop))?;
        Ok(access)
    }

    /// The same, as this user.
    #[must_use]
    pub fn as_user(&self, name: &str, password: &str) -> ClientAccess {
        let user = User { name: name.to_owned(), password: password.to_owned() };
        ClientAccess { tls: self.tls.clone(), user: Some(Arc::new(user)) }
    }

    /// Whether connections are under TLS.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// `host:port` of an endpoint that may be a URL, as stock clients take it.
    ///
    /// # Errors
    /// If the URL wants TLS and there is nobody to believe.
    pub fn address(&self, endpoint: &str) -> Result<String, String> {
        if endpoint.starts_with("https://") && !self.is_secure() {
            return Err(format!("{endpoint} needs --cacert, the authority to believe"));
        }
        let bare = endpoint.split_once("://").map_or(endpoint, |(_, bare)| bare);
        Ok(bare.trim_end_matches('/').to_owned())
    }

    /// A channel to `address` (`host:port`), authenticated if there is a user.
    pub(crate) async fn channel(
        &self,
        address: &str,
        timeout: Duration,
    ) -> Result<Transport, String> {
        let scheme = if self.is_secure() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|error| format!("{address} is not an address: {error}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .tcp_nodelay(true);
        if let Some(tls) = &self.tls {
            let mut config =
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.authority));
            if let Some((certificate, key)) = &tls.own {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint
                .tls_config(config)
                .map_err(|error| format!("certificates for {address}: {}", innermost(&error)))?;
        }
        let channel = endpoint.connect().await;
        let channel = channel
            .map_err(|error| format!("cannot connect to {address}: {}", innermost(&error)))?;
        let token = match &self.user {
            None => None,
            Some(user) => authenticate(channel.clone(), user).await?,
        };
        Ok(InterceptedService::new(channel, Bearer(token)))
    }

    /// A connection for plain HTTP.
    pub(crate) async fn stream(&self, address: &str) -> Result<Box<dyn Stream>, String> {
        let failed = |error: std::io::Error| format!("cannot connect to {address}: {error}");
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|error| format!("{address}: {error}"))?;
        let connector = TlsConnector::from(Arc::new(tls.config()?));
        Ok(Box::new(connector.connect(name, stream).await.map_err(failed)?))
    }
}

impl ClientTls {
    fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.authority) {
            let certificate = certificate.map_err(|error| format!("the authority: {error}"))?;
            roots.add(certificate).map_err(|error| format!("the authority: {error}"))?;
        }
        if roots.is_empty() {
            return Err("the authority's file holds no PEM certificate".to_owned());
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let Some((chain, key)) = &self.own else { return Ok(config.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("the own certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|error| format!("the own key: {error}"))?;
        config
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("the own certificate and key do not fit: {error}"))
    }
}

/// A token, unless the cluster asks for none.
async fn authenticate(
    channel: Channel,
    user: &User,
) -> Result<Option<MetadataValue<Ascii>>, String> {
    let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
    let reply = match AuthClient::new(channel).authenticate(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if status.message().ends_with("authentication is not enabled") => {
            return Ok(None);
        }
        Err(status) => return Err(format!("{}: {}", user.name, status.message())),
    };
    let token = reply.token.parse();
    token.map(Some).map_err(|_| "the member's token cannot be sent back".to_owned())
}

/// Adds the token.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

/// The transport's own sentence is always the same; the system's, at the end, says what is wrong.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let first = Some(error);
    let chain = std::iter::successors(first, |error| error.source());
    chain.last().map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_tls_needs_is_refused() {
        let file = Path::new("/no/such/file");
        let refusal = |cacert, cert, key| {
            ClientAccess::read(cacert, cert, key).expect_err("it is not enough")
        };
        assert!(refusal(None, Some(file), None).contains("go together"));
        assert!(refusal(Some(file), None, None).contains("/no/such/file"));
        let plain = ClientAccess::read(None, None, None).expect("nothing is needed");
        assert_eq!(plain.address("http://a:1/"), Ok("a:1".to_owned()));
        assert!(plain.address("https://a:1").expect_err("not plain").contains("--cacert"));
    }

    #[test]
    fn a_password_is_not_printed() {
        let access = ClientAccess::default().as_user("root", "secret");
        assert!(!format!("{access:?}").contains("secret"));
    }
}
