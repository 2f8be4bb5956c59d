//! Where a node listens and is reached: `host:port`, with or without a URL's scheme before it.

use std::net::IpAddr;

/// Listeners of one kind.
const LISTENERS_MAX: usize = 16;

/// What a URL says about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `http://`
    Plain,
    /// `https://`
    Tls,
    /// Nothing: as the certificates say.
    Unsaid,
}

/// A place and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) scheme: Scheme,
    /// `host:port`.
    pub(super) address: String,
}

/// Reads `host:port`, `http://host:port` or `https://host:port`.
pub(super) fn place(setting: &str, text: &str) -> Result<Place, String> {
    let text = text.trim();
    let (scheme, bare) = match text.split_once("://") {
        Some(("http", bare)) => (Scheme::Plain, bare),
        Some(("https", bare)) => (Scheme::Tls, bare),
        _ => (Scheme::Unsaid, text),
    };
    let bare = bare.trim_end_matches('/');
    let malformed = || format!("{setting} is {text:?}; it should look like 127.0.0.1:2379");
    let (host, port) = bare.rsplit_once(':').ok_or_else(malformed)?;
    port.parse::<u16>().map_err(|_| malformed())?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let sound = match bracketed {
        Some(inner) => inner.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()),
        None => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(plain)
        }
    };
    if sound { Ok(Place { scheme, address: bare.to_owned() }) } else { Err(malformed()) }
}

/// Reads one or more places, separated by commas.
pub(super) fn places(setting: &str, list: &str) -> Result<Vec<Place>, String> {
    let places = list.split(',').map(|text| place(setting, text)).collect::<Result<Vec<_>, _>>()?;
    if places.len() > LISTENERS_MAX {
        return Err(format!("{setting} lists {} places; at most {LISTENERS_MAX}", places.len()));
    }
    let mut addresses: Vec<&str> = places.iter().map(|place| place.address.as_str()).collect();
    addresses.sort_unstable();
    // Port 0 lets the system choose, differently each time.
    let twice = |pair: &&[&str]| pair[0] == pair[1] && !pair[0].ends_with(":0");
    match addresses.windows(2).find(twice) {
        Some(pair) => Err(format!("{setting} lists {} twice", pair[0])),
        None => Ok(places),
    }
}
/// The host of `host:port`, without the brackets of IPv6.
pub(crate) fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}
