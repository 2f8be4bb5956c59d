//! By what a client is let in: whom it believes, what it shows, and who it says it is.
//!
//! Not here: the conversation (`member_client`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WantsClientCert;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, ConfigBuilder, RootCertStore};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::member_client::CallError;
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

/// Why there is no connection, by what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody answers there: another try may find somebody.
    Unreachable(String),
    /// What is said of TLS or of the user does not fit: another try changes nothing.
    Refused(String),
}

/// Of a question, which has no effect.
impl From<CallError> for ConnectError {
    fn from(error: CallError) -> ConnectError {
        match error {
            CallError::Refused(why) => ConnectError::Refused(why),
            CallError::Unknown(why) => ConnectError::Unreachable(why),
        }
    }
}

impl From<ConnectError> for String {
    fn from(error: ConnectError) -> String {
        let (ConnectError::Unreachable(sentence) | ConnectError::Refused(sentence)) = error;
        sentence
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
    fn address<'a>(&self, endpoint: &'a str) -> Result<&'a str, ConnectError> {
        let (scheme, bare) = endpoint.split_once("://").unwrap_or(("", endpoint));
        let refusal = match (scheme, self.is_secure()) {
            ("https", false) => format!("{endpoint} needs --cacert, the authority to believe"),
            ("http", true) => format!("{endpoint} is without TLS: leave --cacert out"),
            ("" | "http" | "https", _) => return Ok(bare.trim_end_matches('/')),
            _ => format!("{endpoint} is no endpoint: say host:port, or a URL of http or https"),
        };
        Err(ConnectError::Refused(refusal))
    }

    /// A channel to `endpoint` (`host:port` or a URL), authenticated if there is a user.
    pub(crate) async fn channel(
        &self,
        endpoint: &str,
        timeout: Duration,
    ) -> Result<Transport, ConnectError> {
        let address = self.address(endpoint)?;
        let scheme = if self.is_secure() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|error| {
                ConnectError::Refused(format!("{address} is not an address: {error}"))
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .tcp_nodelay(true);
        if let Some(tls) = &self.tls {
            let mut config =
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.authority));
            if let Some((certificate, key)) = &tls.own {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(config).map_err(|error| {
                ConnectError::Refused(format!("certificates for {address}: {}", innermost(&error)))
            })?;
        }
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| no_connection(address, &error))?;
        let token = match &self.user {
            None => None,
            Some(user) => authenticate(channel.clone(), user).await?,
        };
        Ok(InterceptedService::new(channel, Bearer(token)))
    }

    /// A connection for plain HTTP.
    pub(crate) async fn stream(&self, endpoint: &str) -> Result<Box<dyn Stream>, String> {
        let address = self.address(endpoint)?;
        let failed = |error: std::io::Error| format!("cannot connect to {address}: {error}");
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let connector = TlsConnector::from(Arc::new(tls.config()?));
        Ok(Box::new(connector.connect(host(address)?, stream).await.map_err(failed)?))
    }

    /// Whether the conversation is plain, and whoever listens at `endpoint` would speak TLS: that
    /// shows only when nothing comes back.
    pub(crate) async fn lacks_tls(&self, endpoint: &str) -> bool {
        let (false, Ok(address)) = (self.is_secure(), self.address(endpoint)) else { return false };
        let probe = async {
            let stream = TcpStream::connect(address).await.ok()?;
            let config = client_config(RootCertStore::empty()).ok()?.with_no_client_auth();
            let connector = TlsConnector::from(Arc::new(config));
            // Nobody vouches for any certificate, but one is shown.
            let error = connector.connect(host(address).ok()?, stream).await.err()?;
            let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
            use rustls::Error::{AlertReceived, InvalidCertificate};
            Some(matches!(error, InvalidCertificate(_) | AlertReceived(_)))
        };
        tokio::time::timeout(CONNECT_TIMEOUT, probe).await.ok().flatten().unwrap_or(false)
    }
}

/// The name that a certificate must be valid for.
fn host(address: &str) -> Result<ServerName<'static>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_matches(['[', ']']).to_owned();
    ServerName::try_from(host).map_err(|error| format!("{address}: {error}"))
}

fn no_connection(address: &str, error: &tonic::transport::Error) -> ConnectError {
    let first: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut chain = std::iter::successors(first, |error| error.source());
    // An error of the system's that wraps another one does not name it as its source.
    let about_tls = chain.find_map(|error| match error.downcast_ref::<std::io::Error>() {
        Some(error) => error.get_ref()?.downcast_ref::<rustls::Error>(),
        None => error.downcast_ref::<rustls::Error>(),
    });
    match about_tls {
        None => {
            ConnectError::Unreachable(format!("cannot connect to {address}: {}", innermost(error)))
        }
        Some(rustls::Error::InvalidMessage(_)) => ConnectError::Refused(format!(
            "{address} does not speak TLS: without it, leave --cacert out"
        )),
        Some(error) => ConnectError::Refused(format!("TLS with {address}: {error}")),
    }
}

fn client_config(
    roots: RootCertStore,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots))
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
        let config = client_config(roots)?;
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
) -> Result<Option<MetadataValue<Ascii>>, ConnectError> {
    let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
    let reply = match AuthClient::new(channel).authenticate(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if status.message().ends_with("authentication is not enabled") => {
            return Ok(None);
        }
        Err(status) => {
            let sentence = format!("{}: {}", user.name, status.message());
            return Err(match CallError::from(status) {
                CallError::Refused(_) => ConnectError::Refused(sentence),
                CallError::Unknown(_) => ConnectError::Unreachable(sentence),
            });
        }
    };
    let token = reply.token.parse();
    let unfit = |_| ConnectError::Refused("the member's token cannot be sent back".to_owned());
    token.map(Some).map_err(unfit)
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
    use crate::local_certificates::LocalCertificates;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;

    #[test]
    fn half_of_what_tls_needs_is_refused() {
        let file = Path::new("/no/such/file");
        let refusal = |cacert, cert, key| {
            ClientAccess::read(cacert, cert, key).expect_err("it is not enough")
        };
        assert!(refusal(None, Some(file), None).contains("go together"));
        assert!(refusal(Some(file), None, None).contains("/no/such/file"));
    }

    #[test]
    fn an_endpoint_may_be_a_url_that_fits() {
        let plain = ClientAccess::default();
        for endpoint in ["a:1", "http://a:1", "http://a:1/"] {
            assert_eq!(plain.address(endpoint), Ok("a:1"));
        }
        let refused = |access: &ClientAccess, endpoint| {
            let Err(ConnectError::Refused(why)) = access.address(endpoint) else {
                panic!("{endpoint} does not fit");
            };
            why
        };
        assert!(refused(&plain, "https://a:1").contains("needs --cacert"));
        assert!(refused(&plain, "unix://a").contains("no endpoint"));
        let tls = ClientTls { authority: Vec::new(), own: None };
        let secure = ClientAccess { tls: Some(Arc::new(tls)), user: None };
        assert_eq!(secure.address("https://a:1"), Ok("a:1"));
        assert!(refused(&secure, "http://a:1").contains("leave --cacert out"));
    }

    /// Nobody says in advance whether there is TLS; both mistakes are found out.
    #[tokio::test]
    async fn tls_on_one_side_alone_is_said_plainly() {
        let directory = std::env::temp_dir().join(format!("quorate-half-{}", std::process::id()));
        let files = LocalCertificates::make(&directory).expect("certificates");
        let secure = ClientAccess::read(Some(&files.authority), None, None).expect("an authority");
        let pem = |path| std::fs::read(path).expect("a file");
        let chain = CertificateDer::pem_slice_iter(&pem(&files.member)).flatten().collect();
        let key = PrivateKeyDer::from_pem_slice(&pem(&files.member_key)).expect("a key");
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("sound")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they fit");
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let (tls, plain) = (listener().await, listener().await);
        let addresses = [&tls, &plain].map(|port| port.local_addr().expect("bound").to_string());
        let serve = async {
            loop {
                tokio::select! {
                    accepted = tls.accept() => {
                        drop(acceptor.accept(accepted.expect("one").0).await);
                    }
                    accepted = plain.accept() => {
                        let mut stream = accepted.expect("one").0;
                        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
                    }
                }
            }
        };
        let ask = async {
            let nobody = ClientAccess::default();
            assert!(nobody.lacks_tls(&addresses[0]).await);
            assert!(!nobody.lacks_tls(&addresses[1]).await);
            assert!(!secure.lacks_tls(&addresses[0]).await);
            let refused = secure.channel(&addresses[1], CONNECT_TIMEOUT).await;
            let Err(ConnectError::Refused(why)) = refused else { panic!("it is plain") };
            assert!(why.contains("does not speak TLS"), "{why}");
        };
        tokio::select! {
            () = ask => {}
            () = serve => {}
        }
        std::fs::remove_dir_all(&directory).expect("the test's own directory");
    }

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("a free port")
    }

    #[test]
    fn a_password_is_not_printed() {
        let access = ClientAccess::default().as_user("root", "secret");
        assert!(!format!("{access:?}").contains("secret"));
    }
}
