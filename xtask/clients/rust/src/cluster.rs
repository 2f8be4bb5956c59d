//! Where the cluster is, and as whom to talk to it.

use std::error::Error;

use etcd_client::{Certificate, Client, ConnectOptions, ResponseHeader, TlsOptions};

pub type Checked<T = ()> = Result<T, Box<dyn Error>>;

/// Fails the check unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($words:tt)*) => {
        if !$condition {
            return Err(format!($($words)*).into());
        }
    };
}

/// Endpoints, and what they ask of a client.
#[derive(Clone)]
pub struct Cluster {
    endpoints: Vec<String>,
    /// Whom the members' certificates are to be signed by; without it there is no TLS.
    authority: Option<Certificate>,
    /// Name and password; without them nobody authenticates.
    user: Option<(String, String)>,
}

impl Cluster {
    /// The arguments, and `ETCDCTL_CACERT` and `ETCDCTL_USER` of the environment.
    pub fn of_this_process() -> Checked<Cluster> {
        let authority = match std::env::var_os("ETCDCTL_CACERT") {
            Some(path) => Some(Certificate::from_pem(std::fs::read(path)?)),
            None => None,
        };
        let user = std::env::var("ETCDCTL_USER").ok();
        let user = user.as_deref().and_then(|user| user.split_once(':'));
        let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
        Ok(Cluster { endpoints: std::env::args().skip(1).collect(), authority, user })
    }

    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub fn has_users(&self) -> bool {
        self.user.is_some()
    }

    /// What a URL of this cluster begins with.
    pub fn scheme(&self) -> &'static str {
        if self.authority.is_some() { "https" } else { "http" }
    }

    /// The same cluster seen by another user.
    pub fn seen_by(&self, name: &str, password: &str) -> Cluster {
        Cluster { user: Some((name.to_owned(), password.to_owned())), ..self.clone() }
    }

    /// The same cluster seen by nobody in particular.
    pub fn seen_by_nobody(&self) -> Cluster {
        Cluster { user: None, ..self.clone() }
    }

    /// The first member alone.
    pub fn first(&self) -> Cluster {
        Cluster { endpoints: self.endpoints[..1].to_vec(), ..self.clone() }
    }

    /// A client of all members: each request goes to any of them.
    pub async fn connect(&self) -> Checked<Client> {
        let mut options = ConnectOptions::new();
        if let Some(authority) = &self.authority {
            options = options.with_tls(TlsOptions::new().ca_certificate(authority.clone()));
        }
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        Ok(Client::connect(&self.endpoints, Some(options)).await?)
    }

    /// A client of one member.
    pub async fn connect_to(&self, endpoint: &str) -> Checked<Client> {
        Cluster { endpoints: vec![endpoint.to_owned()], ..self.clone() }.connect().await
    }
}

/// The revision that a response tells; 0 if it tells none.
pub fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}

/// Holds if the request was refused with this text.
pub fn refused<T>(reply: Result<T, etcd_client::Error>, expected: &str) -> Checked {
    let text = reply.err().map_or_else(|| "no error".to_owned(), |error| error.to_string());
    ensure!(text.contains(expected), "expected {expected:?}, found {text:?}");
    Ok(())
}
