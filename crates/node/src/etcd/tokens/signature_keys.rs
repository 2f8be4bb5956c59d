//! Keys of JSON web tokens: which algorithms there are (RFC 7518, section 3.1; RFC 8037), and their
//! keys from PEM files as etcd takes them: RSA in PKCS#1 or PKCS#8, elliptic curves in SEC 1 or
//! PKCS#8, Edwards curves in PKCS#8, public keys as SubjectPublicKeyInfo; for HMAC the file's bytes
//! are the secret. ES512 is not possible: there is no P-521 in the library that signs here.

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, Ed25519KeyPair, KeyPair,
    RsaEncoding, RsaKeyPair, RsaParameters, UnparsedPublicKey,
};
use std::fmt;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};

/// An algorithm.
#[derive(Clone, Copy)]
pub(in crate::etcd) struct Method {
    name: &'static str,
    algorithm: Algorithm,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn RsaEncoding, &'static RsaParameters),
    Ecdsa(&'static EcdsaSigningAlgorithm, &'static EcdsaVerificationAlgorithm, &'static [u8]),
    Edwards,
}

// Curves' identifiers (RFC 5480, section 2.1.1.1).
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// Every method.
fn methods() -> [Method; 12] {
    use signature as ring;
    let rsa = |name, encoding, parameters| Method {
        name,
        algorithm: Algorithm::Rsa(encoding, parameters),
    };
    let hmac = |name, algorithm| Method { name, algorithm: Algorithm::Hmac(algorithm) };
    let ecdsa = |name, signing, verifying, curve| Method {
        name,
        algorithm: Algorithm::Ecdsa(signing, verifying, curve),
    };
    [
        hmac("HS256", hmac::HMAC_SHA256),
        hmac("HS384", hmac::HMAC_SHA384),
        hmac("HS512", hmac::HMAC_SHA512),
        rsa("RS256", &ring::RSA_PKCS1_SHA256, &ring::RSA_PKCS1_2048_8192_SHA256),
        rsa("RS384", &ring::RSA_PKCS1_SHA384, &ring::RSA_PKCS1_2048_8192_SHA384),
        rsa("RS512", &ring::RSA_PKCS1_SHA512, &ring::RSA_PKCS1_2048_8192_SHA512),
        rsa("PS256", &ring::RSA_PSS_SHA256, &ring::RSA_PSS_2048_8192_SHA256),
        rsa("PS384", &ring::RSA_PSS_SHA384, &ring::RSA_PSS_2048_8192_SHA384),
        rsa("PS512", &ring::RSA_PSS_SHA512, &ring::RSA_PSS_2048_8192_SHA512),
        ecdsa(
            "ES256",
            &ring::ECDSA_P256_SHA256_FIXED_SIGNING,
            &ring::ECDSA_P256_SHA256_FIXED,
            P256,
        ),
        ecdsa(
            "ES384",
            &ring::ECDSA_P384_SHA384_FIXED_SIGNING,
            &ring::ECDSA_P384_SHA384_FIXED,
            P384,
        ),
        Method { name: "EdDSA", algorithm: Algorithm::Edwards },
    ]
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Method) -> bool {
        self.name == other.name
    }
}

impl Eq for Method {}

impl Method {
    /// # Errors
    /// One sentence: there is none of this name.
    pub(in crate::etcd) fn named(name: &str) -> Result<Method, String> {
        let found = methods().into_iter().find(|method| method.name == name);
        found.ok_or_else(|| {
            let known: Vec<_> = methods().iter().map(|method| method.name).collect();
            format!("auth-token: sign-method is {name:?}; it should be one of {}", known.join(", "))
        })
    }

    pub(super) fn name(self) -> &'static str {
        self.name
    }

    /// The keys of two PEM files; the public one follows from the private one.
    ///
    /// # Errors
    /// One sentence about what is missing or cannot be used.
    pub(super) fn keys(
        self,
        public: Option<&[u8]>,
        private: Option<&[u8]>,
    ) -> Result<(Option<SigningKey>, VerifyingKey), String> {
        if let Algorithm::Hmac(algorithm) = self.algorithm {
            let secret = private.filter(|secret| !secret.is_empty());
            let secret = secret.ok_or("auth-token: this sign-method needs priv-key, its secret")?;
            let key = hmac::Key::new(algorithm, secret);
            return Ok((Some(SigningKey::Hmac(key.clone())), VerifyingKey::Hmac(key)));
        }
        let signing = private.map(|pem| self.signing_key(pem)).transpose()?;
        let own = signing.as_ref().and_then(SigningKey::public);
        let given = public.map(public_key).transpose()?;
        let public = match (own, given) {
            (Some(own), Some(given)) if own != given => {
                return Err("auth-token: pub-key is not the public key of priv-key".to_owned());
            }
            (Some(key), _) | (None, Some(key)) => key,
            (None, None) => return Err("auth-token: jwt needs priv-key or pub-key".to_owned()),
        };
        let public = match self.algorithm {
            Algorithm::Rsa(_, parameters) => UnparsedPublicKey::new(parameters as _, public),
            Algorithm::Ecdsa(_, verifying, _) => UnparsedPublicKey::new(verifying as _, public),
            Algorithm::Edwards | Algorithm::Hmac(_) => {
                UnparsedPublicKey::new(&signature::ED25519 as _, public)
            }
        };
        Ok((signing, VerifyingKey::Public(public)))
    }

    fn signing_key(self, pem: &[u8]) -> Result<SigningKey, String> {
        let unusable = |why: &dyn fmt::Display| {
            format!("auth-token: priv-key cannot be used with {}: {why}", self.name)
        };
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| unusable(&error))?;
        let other = || unusable(&"it is a key of another kind");
        match self.algorithm {
            Algorithm::Rsa(encoding, _) => {
                let pair = match &key {
                    PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
                    PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
                    _ => return Err(other()),
                };
                Ok(SigningKey::Rsa(pair.map_err(|error| unusable(&error))?, encoding))
            }
            Algorithm::Ecdsa(algorithm, _, curve) => {
                let wrapped;
                let der = match &key {
                    PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der(),
                    PrivateKeyDer::Sec1(key) => {
                        wrapped = pkcs8_of_sec1(key.secret_sec1_der(), curve);
                        &wrapped
                    }
                    _ => return Err(other()),
                };
                let pair = EcdsaKeyPair::from_pkcs8(algorithm, der, &SystemRandom::new());
                Ok(SigningKey::Ecdsa(pair.map_err(|error| unusable(&error))?))
            }
            Algorithm::Edwards => {
                let PrivateKeyDer::Pkcs8(key) = &key else { return Err(other()) };
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der());
                Ok(SigningKey::Edwards(pair.map_err(|error| unusable(&error))?))
            }
            Algorithm::Hmac(_) => unreachable!("a secret is no PEM file"),
        }
    }
}

/// Signs.
pub(super) enum SigningKey {
    Hmac(hmac::Key),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl SigningKey {
    /// The signature, unless there is no randomness for it.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        Some(match self {
            SigningKey::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            SigningKey::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).ok()?;
                signature
            }
            SigningKey::Ecdsa(pair) => pair.sign(&random, message).ok()?.as_ref().to_vec(),
            SigningKey::Edwards(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }

    fn public(&self) -> Option<Vec<u8>> {
        match self {
            SigningKey::Hmac(_) => None,
            SigningKey::Rsa(pair, _) => Some(pair.public_key().as_ref().to_vec()),
            SigningKey::Ecdsa(pair) => Some(pair.public_key().as_ref().to_vec()),
            SigningKey::Edwards(pair) => Some(pair.public_key().as_ref().to_vec()),
        }
    }
}

/// Checks signatures.
pub(super) enum VerifyingKey {
    Hmac(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

impl VerifyingKey {
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            VerifyingKey::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            VerifyingKey::Public(key) => key.verify(message, signature).is_ok(),
        }
    }
}

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The key within a SubjectPublicKeyInfo (RFC 5280, section 4.1): the bit string behind the
/// algorithm, which is in each case the form that a signature is checked with.
fn public_key(pem: &[u8]) -> Result<Vec<u8>, String> {
    let unusable = "auth-token: pub-key is not a PEM file with a PUBLIC KEY";
    let info = SubjectPublicKeyInfoDer::from_pem_slice(pem)
        .map_err(|error| format!("{unusable}: {error}"))?;
    let bits = element(&info, SEQUENCE)
        .and_then(|(info, _)| element(info, SEQUENCE))
        .and_then(|(_, rest)| element(rest, BIT_STRING))
        .and_then(|(bits, _)| bits.strip_prefix(&[0]));
    bits.map(<[u8]>::to_vec).ok_or_else(|| unusable.to_owned())
}

/// Content of the first element of this tag, and what follows it (DER, X.690 section 8.1).
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// A key in SEC 1 form (RFC 5915), as PKCS#8 holds it (RFC 5958): with its curve said outside.
fn pkcs8_of_sec1(sec1: &[u8], curve: &[u8]) -> Vec<u8> {
    // id-ecPublicKey.
    const EC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const VERSION: &[u8] = &[0x02, 0x01, 0x00];
    let algorithm = tagged(SEQUENCE, &[EC_KEY, curve].concat());
    tagged(SEQUENCE, &[VERSION, &algorithm, &tagged(0x04, sec1)].concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    assert!(length < 1 << 16, "keys of curves are short");
    let [high, low] = (length as u16).to_be_bytes();
    let head: &[u8] = match length {
        0..=0x7f => &[tag, low],
        0x80..=0xff => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    [head, content].concat()
}
