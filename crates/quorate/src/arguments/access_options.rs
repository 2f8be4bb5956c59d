//! How a subcommand that talks to a cluster is let in, by etcdctl's names.

use std::path::PathBuf;

use clap::Args;
use harness::client_access::ClientAccess;

use crate::Failure;

/// Flatten it into the options of whatever talks to a cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessOptions {
    /// Authority (PEM) that signed the members' certificates; with it, connections are under TLS.
    #[arg(long)]
    cacert: Option<PathBuf>,
    /// Certificate (PEM) to show to the members.
    #[arg(long)]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    key: Option<PathBuf>,
    /// USER:PASSWORD, or USER with --password.
    #[arg(long)]
    user: Option<String>,
    /// The user's password.
    #[arg(long, requires = "user")]
    password: Option<String>,
}

impl AccessOptions {
    /// Reads the files.
    pub(crate) fn access(&self) -> Result<ClientAccess, Failure> {
        let files = [&self.cacert, &self.cert, &self.key];
        let [cacert, cert, key] = files.map(|file| file.as_deref());
        let access = ClientAccess::read(cacert, cert, key).map_err(Failure::Usage)?;
        let Some(user) = &self.user else { return Ok(access) };
        match (user.split_once(':'), &self.password) {
            (_, Some(password)) => Ok(access.as_user(user, password)),
            (Some((name, password)), None) => Ok(access.as_user(name, password)),
            (None, None) => {
                Err(Failure::Usage("--user wants USER:PASSWORD, or --password".to_owned()))
            }
        }
    }
}
