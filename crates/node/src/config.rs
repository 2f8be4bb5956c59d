//! Settings of a node: where they come from, what they default to, and how they must relate.
//!
//! Layers, each overriding those after it: flags (crate `quorate`), environment (`QUORATE_*`, then
//! etcd's `ETCD_*`), a TOML file, defaults. Whatever is unknown, malformed or contradictory is
//! refused in one sentence that names the setting.
//!
//! A new setting is a field of [`Settings`], a name in its `or`, and a flag of crate `quorate`; if
//! etcd has it too, a row of `etcd_flags`.

mod environment;
mod etcd_flags;
mod initial_cluster;
pub(crate) mod listen_url;
mod listeners;
#[cfg(test)]
mod tests;
mod tls_settings;

pub use etcd_flags::{Translated, translate};
pub use initial_cluster::{ClusterIdentity, ClusterState, InitialMember};
pub use tls_settings::TlsConfig;

use crate::auto_compaction::Retention;
use crate::etcd::AuthSettings;
use crate::log_disk::SyncForm;
use crate::log_structured_merge_tree::EngineLimits;
use listeners::Listeners;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Most members of an initial cluster: every one holds a full copy and votes.
const INITIAL_MEMBERS_MAX: usize = 9;
/// Highest feature level that this build speaks.
pub(crate) const FEATURE_LEVEL: u32 = 2;
/// Most members of a cluster to join, learners included.
const MEMBERS_MAX: usize = 64;
/// Names end up in file names, tables and URLs.
const NAME_BYTES_MAX: usize = 64;
/// Free space that is kept back when nothing else is set, in MiB.
const DEFAULT_RESERVE_MIB: u64 = 256;
/// Cache of the storage engine when nothing else is set, in MiB.
const DEFAULT_CACHE_MIB: u64 = 128;

/// One layer of settings; what it does not say is left to the layers below.
///
/// Field names are those of the flags and of the TOML file (with dashes), and of the environment
/// (in capitals, with underscores, after `QUORATE_`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// This member's name.
    pub name: Option<String>,
    /// Where everything durable lives.
    pub data_dir: Option<PathBuf>,
    /// `host:port`s on which etcd clients are served.
    pub etcd: Option<String>,
    /// `host:port`s on which members are served.
    pub peer: Option<String>,
    /// `host:port`s of status and metrics.
    pub admin: Option<String>,
    /// Where the other members reach this one, if not where `initial-cluster` says.
    pub initial_advertise_peer_urls: Option<String>,
    /// `new`: a first start founds the cluster with the others; `existing`: it joins them.
    pub initial_cluster_state: Option<String>,
    /// `name=host:port,…`: all members, this one included, the same on each.
    pub initial_cluster: Option<String>,
    /// Tells apart clusters that have the same members.
    pub initial_cluster_token: Option<String>,
    /// URLs at which clients of other machines reach this member, separated by commas.
    pub advertise_etcd: Option<String>,
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: Option<u64>,
    /// Milliseconds of silence after which a leader is doubted.
    pub election_ms: Option<u64>,
    /// Milliseconds that a leader may answer reads by itself after a heartbeat; 0: never.
    pub lease_ms: Option<u64>,
    /// What users show with their calls, `simple` or `jwt,…`.
    pub auth_token: Option<String>,
    /// Seconds that a simple token lasts after its last use.
    pub auth_token_ttl: Option<u64>,
    /// Work factor of password hashes, 4 to 31; each step doubles it.
    pub bcrypt_cost: Option<u32>,
    /// Cache of the storage engine, in MiB.
    pub cache_mib: Option<u64>,
    /// Free disk space below which writes are refused, in MiB.
    pub reserve_mib: Option<u64>,
    /// Threads that serve clients.
    pub front_ends: Option<usize>,
    /// Make a cluster of its own of a lone survivor, at this start.
    pub force_new_cluster: Option<bool>,
    /// Bytes of the state above which whatever puts is refused; 0 or less: no such bound.
    pub quota_backend_bytes: Option<i64>,
    /// `periodic` or `revision`: what `auto-compaction-retention` counts.
    pub auto_compaction_mode: Option<String>,
    /// How much history is kept (hours, a duration, or revisions); 0: all of it.
    pub auto_compaction_retention: Option<String>,
    /// Hidden, for tests: hold unsynced log writes in memory, so that a kill is a power loss.
    pub test_power_loss: Option<bool>,
    /// Hidden, for tests: the planted bug; needs `test-power-loss`.
    pub test_no_sync: Option<bool>,
    /// The clients' port: PEM chain of this member's certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Clients must show a certificate that one of these signed.
    pub trusted_ca_file: Option<PathBuf>,
    /// The common name of a client's certificate is its user.
    pub client_cert_auth: Option<bool>,
    /// Clients' certificates that count no more.
    pub client_crl_file: Option<PathBuf>,
    /// Clients' certificates must be valid for one of these.
    pub client_cert_allowed_hostname: Option<String>,
    /// Without certificates: make one.
    pub auto_tls: Option<bool>,
    /// The members' port: PEM chain of this member's certificate.
    pub peer_cert_file: Option<PathBuf>,
    /// Its key.
    pub peer_key_file: Option<PathBuf>,
    /// Members must show a certificate that one of these signed.
    pub peer_trusted_ca_file: Option<PathBuf>,
    /// As etcd has it; the file above says as much.
    pub peer_client_cert_auth: Option<bool>,
    /// Members' certificates that count no more.
    pub peer_crl_file: Option<PathBuf>,
    /// Members' certificates must have one of these common names.
    pub peer_cert_allowed_cn: Option<String>,
    /// Members' certificates must be valid for one of these.
    pub peer_cert_allowed_hostname: Option<String>,
    /// Without certificates: make one, and believe any.
    pub peer_auto_tls: Option<bool>,
    /// A member's certificate need not be valid for where it is reached.
    pub peer_skip_client_san_verification: Option<bool>,
    /// Years.
    pub self_signed_cert_validity: Option<u32>,
    /// `TLS1.2` or `TLS1.3`.
    pub tls_min_version: Option<String>,
    /// `TLS1.2` or `TLS1.3`.
    pub tls_max_version: Option<String>,
    /// Of TLS 1.2, by the names of IANA.
    pub cipher_suites: Option<String>,
    /// What is logged: `debug`, `info`, `warn` or `error`.
    pub log_level: Option<String>,
    /// Hidden, for tests: a file that says how many bytes are free.
    pub test_free_space_file: Option<PathBuf>,
    /// Dangerous, for chaos runs: the admin endpoint can make this member lie and fail.
    pub enable_faults: Option<bool>,
    /// Hidden, for tests: speak no higher feature level than this.
    pub test_feature_level: Option<u32>,
    /// What was accepted but means nothing here, to be logged.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// Settings of a node, complete and consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// This member's name.
    pub name: String,
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Where to serve etcd clients; not empty.
    pub etcd: Vec<Listen>,
    /// Where to serve members; not empty.
    pub peer: Vec<Listen>,
    /// Where to serve status and metrics; not empty.
    pub admin: Vec<Listen>,
    /// Which ports have TLS, and how.
    pub tls: TlsConfig,
    /// All members, ascending by name, and the ids that follow from them.
    pub cluster: ClusterIdentity,
    /// What a first start does with that list; later ones ignore both.
    pub cluster_state: ClusterState,
    /// Where clients are told to reach this member; if empty, at the address served.
    pub client_urls: Vec<String>,
    /// Between heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence after which a leader is doubted.
    pub election_timeout: Duration,
    /// Length of a leader's lease; zero: none.
    pub lease: Duration,
    /// Bounds of the storage engine.
    pub engine: EngineLimits,
    /// How users prove who they are, once authentication is on.
    pub auth: AuthSettings,
    /// Free bytes below which writes are refused.
    pub reserve_bytes: u64,
    /// Threads that serve clients.
    pub front_ends: usize,
    /// Whether this start makes a cluster of its own of a lone survivor.
    pub force_new_cluster: bool,
    /// Bytes of the state above which whatever puts is refused; 0: none.
    pub quota_bytes: u64,
    /// How much history is kept, if not all.
    pub retention: Option<Retention>,
    /// How the log syncs; anything but `Real` only for tests.
    pub sync_form: SyncForm,
    /// For tests: a file that says how many bytes are free.
    pub free_space_file: Option<PathBuf>,
    /// Whether the admin endpoint, which is on loopback then, can inject faults.
    pub enable_faults: bool,
    /// Highest feature level that this node speaks; less than the build's only for tests.
    pub feature_level: u32,
    /// Filter of the log, if it was set.
    pub log_level: Option<String>,
    /// What was accepted but means nothing here.
    pub notes: Vec<String>,
}

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `host:port`.
    pub address: String,
    /// How it is spoken to there.
    pub transport: Transport,
}

/// What protects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Nothing.
    Plain,
    /// TLS.
    Tls,
}

impl Settings {
    /// Reads a TOML file's text; `origin` names it in errors.
    ///
    /// # Errors
    /// One sentence about what cannot be understood.
    pub fn from_toml(text: &str, origin: &str) -> Result<Settings, String> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                1 + text.as_bytes()[..span.start].iter().filter(|byte| **byte == b'\n').count()
            });
            format!("{origin}, line {line}: {}", environment::sentence(&error))
        })
    }

    /// These settings, and where they are silent, those of `lower`.
    #[must_use]
    pub fn or(self, lower: Settings) -> Settings {
        let notes = [self.notes, lower.notes].concat();
        macro_rules! first_of {
            ($($field:ident)*) => {
                Settings { notes, $($field: self.$field.or(lower.$field)),* }
            };
        }
        first_of! {
            name data_dir etcd peer admin
            initial_cluster initial_cluster_token initial_cluster_state initial_advertise_peer_urls
            advertise_etcd
            auth_token auth_token_ttl bcrypt_cost
            heartbeat_ms election_ms lease_ms cache_mib reserve_mib front_ends log_level
            cert_file key_file trusted_ca_file client_cert_auth client_crl_file
            client_cert_allowed_hostname auto_tls
            peer_cert_file peer_key_file peer_trusted_ca_file peer_client_cert_auth peer_crl_file
            peer_cert_allowed_cn peer_cert_allowed_hostname peer_auto_tls
            peer_skip_client_san_verification
            self_signed_cert_validity tls_min_version tls_max_version cipher_suites
            force_new_cluster quota_backend_bytes auto_compaction_mode auto_compaction_retention
            test_power_loss test_no_sync test_free_space_file test_feature_level
            enable_faults
        }
    }

    /// Fills in the defaults and checks everything.
    ///
    /// # Errors
    /// One sentence about the first setting that is wrong.
    pub fn resolve(self) -> Result<NodeConfig, String> {
        let sync_form = self.sync_form()?;
        let name = self.name.clone().unwrap_or_else(|| "default".to_owned());
        check_name(&name)?;
        let cluster_state = ClusterState::of(
            self.initial_cluster.is_some(),
            self.initial_cluster_state.as_deref(),
        )?;
        let token = self.initial_cluster_token.clone();
        let token = token.unwrap_or_else(|| "quorate-cluster".to_owned());
        let (members, own) = initial_cluster::members(
            &name,
            (self.initial_cluster.as_deref(), cluster_state),
            self.initial_advertise_peer_urls.as_deref(),
            self.peer.as_deref(),
        )?;
        let listeners = Listeners::read(&self, &own)?;
        let election_timeout = Duration::from_millis(self.election_ms.unwrap_or(1000));
        let config = NodeConfig {
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("quorate-data").join(&name)),
            etcd: listeners.etcd,
            peer: listeners.peer,
            admin: listeners.admin,
            tls: listeners.tls,
            cluster: ClusterIdentity::derive(&name, members, &token)?,
            cluster_state,
            name,
            client_urls: listeners.client_urls,
            heartbeat_interval: Duration::from_millis(self.heartbeat_ms.unwrap_or(100)),
            election_timeout,
            lease: self.lease_ms.map_or(election_timeout / 5, Duration::from_millis),
            engine: EngineLimits {
                cache_bytes: mebibytes("cache-mib", self.cache_mib.unwrap_or(DEFAULT_CACHE_MIB))?,
                ..EngineLimits::default()
            },
            reserve_bytes: mebibytes(
                "reserve-mib",
                self.reserve_mib.unwrap_or(DEFAULT_RESERVE_MIB),
            )?,
            auth: AuthSettings::of(
                self.auth_token.as_deref(),
                self.auth_token_ttl,
                self.bcrypt_cost,
            )?,
            front_ends: self.front_ends.unwrap_or_else(default_front_ends),
            force_new_cluster: self.force_new_cluster.unwrap_or(false),
            quota_bytes: self.quota_backend_bytes.unwrap_or(0).try_into().unwrap_or(0),
            retention: Retention::parse(
                self.auto_compaction_mode.as_deref(),
                self.auto_compaction_retention.as_deref(),
            )?,
            sync_form,
            free_space_file: self.test_free_space_file,
            enable_faults: self.enable_faults.unwrap_or(false),
            feature_level: self.test_feature_level.unwrap_or(FEATURE_LEVEL).min(FEATURE_LEVEL),
            log_level: self.log_level.as_deref().map(log_level).transpose()?,
            notes: [self.notes, listeners.notes].concat(),
        };
        config.validate()?;
        Ok(config)
    }

    fn sync_form(&self) -> Result<SyncForm, String> {
        let power_loss = self.test_power_loss.unwrap_or(false);
        match (power_loss, self.test_no_sync.unwrap_or(false)) {
            (false, false) => Ok(SyncForm::Real),
            (true, false) => Ok(SyncForm::HeldUntilSync),
            (true, true) => Ok(SyncForm::TakenOut),
            (false, true) => Err("test-no-sync needs test-power-loss".to_owned()),
        }
    }
}

impl NodeConfig {
    /// The longest lease that any member of the cluster may have: a restarted member, which does
    /// not know what it had promised, promises this much anew.
    #[must_use]
    pub fn longest_lease(&self) -> Duration {
        self.election_timeout / 4
    }

    /// Where the other members are to reach this one, as far as settings say.
    ///
    /// # Panics
    /// If the configuration was not validated: this member is listed.
    #[must_use]
    pub fn own_peer_address(&self) -> &str {
        let own = self.cluster.members.iter().find(|member| member.name == self.name);
        &own.expect("validated: the member is listed").address
    }

    /// How the settings must relate.
    ///
    /// # Errors
    /// One sentence about the first that is wrong.
    pub fn validate(&self) -> Result<(), String> {
        let own = self.cluster.members.iter().find(|member| member.name == self.name);
        let own = own.ok_or("initial-cluster does not list this member")?;
        let listeners = [("etcd", &self.etcd), ("peer", &self.peer), ("admin", &self.admin)];
        for (at, (first, left)) in listeners.iter().enumerate() {
            for (second, right) in &listeners[at + 1..] {
                let both = left.iter().find(|one| right.iter().any(|two| one.clashes_with(two)));
                if let Some(both) = both {
                    return Err(format!("{first} and {second} are both {}", both.address));
                }
            }
        }
        if self.cluster.members.len() > 1 && own.address.ends_with(":0") {
            return Err("a member of a cluster needs a fixed peer port".to_owned());
        }
        let open = self.admin.iter().find(|listen| !listen.is_loopback());
        if let (true, Some(listen)) = (self.enable_faults, open) {
            let address = &listen.address;
            return Err(format!(
                "enable-faults lets whoever reaches the admin endpoint break this node: admin must \
                 be on loopback, such as 127.0.0.1:2381, not {address}"
            ));
        }
        let rules = [
            (!self.heartbeat_interval.is_zero(), "heartbeat-ms must not be 0"),
            (
                self.election_timeout >= self.heartbeat_interval * 2,
                "election-ms must be at least twice heartbeat-ms",
            ),
            (self.election_timeout <= Duration::from_secs(60), "election-ms must be at most 60000"),
            (
                self.lease <= self.longest_lease(),
                "lease-ms must be at most a quarter of election-ms",
            ),
            ((1..=256).contains(&self.front_ends), "front-ends must be between 1 and 256"),
            (self.engine.cache_bytes >= 1 << 20, "cache-mib must be at least 1"),
            (!self.data_dir.as_os_str().is_empty(), "data-dir must not be empty"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, sentence)) => Err((*sentence).to_owned()),
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    if fits && name.bytes().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(format!(
        "the name {name:?} is not possible: letters, digits, '-', '_' and '.', at most \
         {NAME_BYTES_MAX}, not beginning with '.'"
    ))
}

impl Listen {
    /// Whether only this machine reaches it.
    fn is_loopback(&self) -> bool {
        let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Port 0 lets the system choose, differently each time.
    fn clashes_with(&self, other: &Listen) -> bool {
        self.address == other.address && !self.address.ends_with(":0")
    }
}

/// `host:port` of a member.
fn address(setting: &str, text: &str) -> Result<String, String> {
    listen_url::place(setting, text).map(|place| place.address)
}

/// etcd's levels; what ends a program there is an error here.
fn log_level(level: &str) -> Result<String, String> {
    match level {
        "debug" | "info" | "warn" | "error" => Ok(level.to_owned()),
        "dpanic" | "panic" | "fatal" => Ok("error".to_owned()),
        _ => Err(format!("log-level is {level:?}; it should be debug, info, warn or error")),
    }
}

fn mebibytes(setting: &str, count: u64) -> Result<u64, String> {
    count.checked_mul(1 << 20).ok_or_else(|| format!("{setting} is too large: {count}"))
}

fn default_front_ends() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}
