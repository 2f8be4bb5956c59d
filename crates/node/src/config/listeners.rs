//! Where a node listens and what it is called there, with what each URL's scheme asks for.

use super::listen_url::{self, Place, Scheme};
use super::tls_settings::{self, TlsConfig};
use super::{Listen, Settings, Transport};

/// Everything about ports.
pub(super) struct Listeners {
    pub(super) etcd: Vec<Listen>,
    pub(super) peer: Vec<Listen>,
    pub(super) admin: Vec<Listen>,
    pub(super) client_urls: Vec<String>,
    pub(super) tls: TlsConfig,
    /// What is worth a line in the log.
    pub(super) notes: Vec<String>,
}

impl Listeners {
    /// Reads them; `own` is where the other members reach this one.
    pub(super) fn read(settings: &Settings, own: &str) -> Result<Listeners, String> {
        let mut tls = tls_settings::read(settings)?;
        let mut notes = Vec::new();
        let clients = tls.clients.is_some();
        let mut listen = |setting: &str, list: &str, scheme: Option<Scheme>, certificate: bool| {
            let listen = |place: Place| {
                let scheme = scheme.unwrap_or(place.scheme);
                let (transport, note) = transport(setting, scheme, certificate)?;
                notes.extend(note.map(|note| format!("{}: {note}", place.address)));
                Ok::<_, String>(Listen { transport, address: place.address })
            };
            listen_url::places(setting, list)?
                .into_iter()
                .map(listen)
                .collect::<Result<Vec<_>, _>>()
        };
        let etcd = settings.etcd.as_deref().unwrap_or("127.0.0.1:2379");
        let etcd: Vec<Listen> = listen("etcd", etcd, None, clients)?;
        let peer = settings.peer.as_deref().unwrap_or(own);
        let scheme = members_scheme(settings)?;
        let peer: Vec<Listen> = listen("peer", peer, Some(scheme), tls.members.is_some())?;
        if peer.iter().all(|listen| listen.transport == Transport::Plain) {
            tls.members = None;
        }
        let admin = settings.admin.as_deref().unwrap_or("127.0.0.1:2381");
        let admin = listen_url::places("admin", admin)?.into_iter().map(admin_listener);
        let admin = admin.collect::<Result<Vec<_>, _>>()?;
        notes.sort_unstable();
        notes.dedup();
        let client_urls = client_urls(settings.advertise_etcd.as_deref(), clients)?;
        Ok(Listeners { etcd, peer, admin, client_urls, tls, notes })
    }
}

fn admin_listener(place: Place) -> Result<Listen, String> {
    match place.scheme {
        Scheme::Tls => Err(format!(
            "admin is https://{}, but operators are served without TLS: use loopback, or the \
             clients' port, which has /metrics and /health too",
            place.address
        )),
        Scheme::Plain | Scheme::Unsaid => {
            Ok(Listen { address: place.address, transport: Transport::Plain })
        }
    }
}

fn client_urls(list: Option<&str>, has_certificate: bool) -> Result<Vec<String>, String> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let url = |place: Place| match transport("advertise-etcd", place.scheme, has_certificate)?.0 {
        Transport::Plain => Ok(format!("http://{}", place.address)),
        Transport::Tls => Ok(format!("https://{}", place.address)),
    };
    listen_url::places("advertise-etcd", list)?.into_iter().map(url).collect()
}

/// How a listener is spoken to; a note if it is not as the certificates suggest.
fn transport(
    setting: &str,
    scheme: Scheme,
    has_certificate: bool,
) -> Result<(Transport, Option<String>), String> {
    match (scheme, has_certificate) {
        (Scheme::Tls, true) | (Scheme::Unsaid, true) => Ok((Transport::Tls, None)),
        (Scheme::Unsaid, false) | (Scheme::Plain, false) => Ok((Transport::Plain, None)),
        (Scheme::Plain, true) => {
            let note = format!("{setting} says http://: its certificates are not used there");
            Ok((Transport::Plain, Some(note)))
        }
        (Scheme::Tls, false) => Err(format!(
            "{setting} says https://, but there is no certificate: set {0}cert-file and \
             {0}key-file, or {0}auto-tls",
            if setting == "etcd" || setting == "advertise-etcd" { "" } else { "peer-" }
        )),
    }
}

/// Members speak TLS or they do not, all of them: what the URLs of all of them say.
fn members_scheme(settings: &Settings) -> Result<Scheme, String> {
    let listed = settings.initial_cluster.iter().flat_map(|list| list.split(','));
    let listed = listed.filter_map(|part| part.split_once('=')).map(|(_, place)| place);
    let own = [&settings.peer, &settings.initial_advertise_peer_urls];
    let own = own.into_iter().flatten().flat_map(|list| list.split(','));
    let mut said = Scheme::Unsaid;
    for place in listed.chain(own) {
        let scheme = listen_url::place("initial-cluster", place)?.scheme;
        match (said, scheme) {
            (Scheme::Tls, Scheme::Plain) | (Scheme::Plain, Scheme::Tls) => {
                let sentence = "peer URLs are https:// for all members or for none";
                return Err(sentence.to_owned());
            }
            (Scheme::Unsaid, scheme) => said = scheme,
            _ => {}
        }
    }
    Ok(said)
}
