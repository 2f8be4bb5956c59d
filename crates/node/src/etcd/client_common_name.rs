//! Who a client is by its certificate.

/// The common name of a client's verified certificate: an extension of every request on a
/// connection whose port was told to take it for a user (`client-cert-auth`). Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCommonName(pub(crate) String);
