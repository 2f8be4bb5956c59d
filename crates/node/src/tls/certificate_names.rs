//! Whom a certificate speaks for: its subject's common name, and the hosts it is valid for.
//!
//! Certificates come here only once their chain was verified; what cannot be read has no name.

use super::TlsPort;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;

/// Tags of X.690 and X.680 that occur on the way to the name.
mod tag {
    pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(super) const UTF8_STRING: u8 = 0x0c;
    pub(super) const PRINTABLE_STRING: u8 = 0x13;
    pub(super) const TELETEX_STRING: u8 = 0x14;
    pub(super) const IA5_STRING: u8 = 0x16;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
    /// [0], explicit: the version, absent in version 1.
    pub(super) const VERSION: u8 = 0xa0;
}

/// 2.5.4.3, id-at-commonName (RFC 5280, appendix A.1).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// Longest name that is looked at (RFC 5280: 64 characters).
const NAME_BYTES_MAX: usize = 256;

/// The common name of the subject, the last one if there are several; never empty.
pub(crate) fn common_name(certificate: &[u8]) -> Option<String> {
    let mut rest = certificate;
    let mut certificate = expect(&mut rest, tag::SEQUENCE)?;
    let mut to_be_signed = expect(&mut certificate, tag::SEQUENCE)?;
    if to_be_signed.first() == Some(&tag::VERSION) {
        element(&mut to_be_signed)?;
    }
    // Serial number, signature algorithm, issuer, validity (RFC 5280, section 4.1).
    for _ in 0..4 {
        element(&mut to_be_signed)?;
    }
    let mut subject = expect(&mut to_be_signed, tag::SEQUENCE)?;
    let mut name = None;
    while !subject.is_empty() {
        let mut relative = expect(&mut subject, tag::SET)?;
        while !relative.is_empty() {
            let mut attribute = expect(&mut relative, tag::SEQUENCE)?;
            if expect(&mut attribute, tag::OBJECT_IDENTIFIER)? == COMMON_NAME {
                name = Some(text(&mut attribute)?);
            }
        }
    }
    name
}

fn text(input: &mut &[u8]) -> Option<String> {
    use tag::{IA5_STRING, PRINTABLE_STRING, TELETEX_STRING, UTF8_STRING};
    let (tag, bytes) = element(input)?;
    let known = [UTF8_STRING, PRINTABLE_STRING, TELETEX_STRING, IA5_STRING].contains(&tag);
    let fits = (1..=NAME_BYTES_MAX).contains(&bytes.len());
    if known && fits { String::from_utf8(bytes.to_vec()).ok() } else { None }
}

fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (found, content) = element(input)?;
    (found == tag).then_some(content)
}

/// The next element's tag and content (X.690, section 8.1).
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut rest) = input.split_first_chunk()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = after;
            digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit))
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    *input = after;
    Some((tag, content))
}

/// Whether one of its subject alternative names is `host`, a DNS name or an address.
pub(crate) fn is_valid_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return false };
    let Ok(host) = ServerName::try_from(host) else { return false };
    verify_server_name(&parsed, &host).is_ok()
}

/// What a port asks of a certificate beyond its chain.
pub(super) fn check(port: &TlsPort, certificate: &CertificateDer<'_>) -> Result<(), String> {
    let names = &port.allowed_common_names;
    if !names.is_empty() {
        let name = common_name(certificate);
        if !name.as_ref().is_some_and(|name| names.contains(name)) {
            let name = name.unwrap_or_default();
            return Err(format!("the certificate's common name, {name:?}, is not allowed"));
        }
    }
    let hosts = &port.allowed_hostnames;
    if !hosts.is_empty() && !hosts.iter().any(|host| is_valid_for(certificate, host)) {
        return Err(format!("the certificate is not valid for {}", hosts.join(" or ")));
    }
    Ok(())
}
