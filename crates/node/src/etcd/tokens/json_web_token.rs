//! JSON web tokens (RFC 7519, in the compact form of RFC 7515): signed with a key of the
//! operator's, so that others can check them, or make them, without asking a member.
//!
//! One algorithm is set, and a token that names another one is none: what its header says decides
//! nothing. Claims are etcd's: `username`, `revision`, and when it ends, `exp`.

use super::signature_keys::{Method, SigningKey, VerifyingKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store::command::Caller;
use wire::etcd::{Code, ProtocolError};

/// Longer ones are not looked at: no header of a request is.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// How JSON web tokens are set (etcd's `--auth-token jwt,…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// The algorithm of RFC 7518, or of RFC 8037.
    pub(in crate::etcd) method: Method,
    /// PEM file of the public key, to check with.
    pub(in crate::etcd) public_key: Option<PathBuf>,
    /// PEM file of the private key, to sign with; the secret itself if there is one key for both.
    pub(in crate::etcd) private_key: Option<PathBuf>,
    /// How long a token lasts.
    pub(in crate::etcd) ttl: Duration,
}

/// Gives out tokens, if there is a key for it, and reads them.
pub(in crate::etcd) struct JsonWebTokens {
    method: Method,
    ttl: Duration,
    signing: Option<SigningKey>,
    verifying: VerifyingKey,
}

#[derive(Serialize)]
struct Header {
    alg: &'static str,
    typ: &'static str,
}

#[derive(Deserialize)]
struct AnyHeader {
    alg: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    exp: u64,
}

impl JsonWebTokens {
    /// # Errors
    /// One sentence about a key that cannot be used.
    pub(super) fn new(settings: &JwtSettings) -> Result<JsonWebTokens, String> {
        let read = |file: &PathBuf| {
            std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
        };
        let public = settings.public_key.as_ref().map(read).transpose()?;
        let private = settings.private_key.as_ref().map(read).transpose()?;
        let (signing, verifying) = settings.method.keys(public.as_deref(), private.as_deref())?;
        Ok(JsonWebTokens { method: settings.method, ttl: settings.ttl, signing, verifying })
    }

    pub(super) fn issue(&self, name: &str, revision: u64) -> Result<String, ProtocolError> {
        let Some(key) = &self.signing else {
            // As etcd says it.
            let text = "auth: token signing attempted with verify-only key";
            return Err(ProtocolError::of(Code::Unknown, text));
        };
        let exp = wall_seconds().saturating_add(self.ttl.as_secs());
        let header = Header { alg: self.method.name(), typ: "JWT" };
        let claims = Claims { username: name.to_owned(), revision, exp };
        let part = |json: serde_json::Result<Vec<u8>>| {
            URL_SAFE_NO_PAD.encode(json.expect("texts and numbers are JSON"))
        };
        let header = part(serde_json::to_vec(&header));
        let signed = format!("{header}.{}", part(serde_json::to_vec(&claims)));
        let signature = key.sign(signed.as_bytes()).ok_or_else(|| {
            ProtocolError::of(Code::Unknown, "quorate: the token could not be signed")
        })?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whom a token names, if it is good.
    pub(super) fn verify(&self, token: &str) -> Option<Caller> {
        self.verify_at(token, wall_seconds())
    }

    fn verify_at(&self, token: &str, wall_s: u64) -> Option<Caller> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: AnyHeader = read(header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let sound = header.alg == self.method.name()
            && self.verifying.verify(signed.as_bytes(), &signature);
        if !sound {
            return None;
        }
        let claims: Claims = read(claims)?;
        let Claims { username: name, revision, exp } = claims;
        (wall_s < exp).then_some(Caller::User { name, revision })
    }
}

fn read<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    const SECONDS: u64 = 300;

    fn tokens(method: &str, public: Option<&[u8]>, private: Option<&[u8]>) -> JsonWebTokens {
        let method = Method::named(method).expect("a method");
        let (signing, verifying) = method.keys(public, private).expect("keys");
        let ttl = Duration::from_secs(SECONDS);
        JsonWebTokens { method, ttl, signing, verifying }
    }

    fn ann(revision: u64) -> Option<Caller> {
        Some(Caller::User { name: "ann".into(), revision })
    }

    /// A pair of keys as people make them.
    fn openssl(arguments: &[&str], private: Option<&[u8]>) -> Vec<u8> {
        use std::io::Write;
        use std::process::Stdio;
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is there");
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(private.unwrap_or_default()).expect("it reads");
        drop(input);
        child.wait_with_output().expect("it ends").stdout
    }

    #[test]
    fn every_method_signs_and_checks_and_none_takes_anothers_token() {
        let p256 = openssl(&["ecparam", "-genkey", "-noout", "-name", "prime256v1"], None);
        let p384 =
            openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], None);
        let rsa = openssl(&["genrsa", "2048"], None);
        let edwards = openssl(&["genpkey", "-algorithm", "ed25519"], None);
        let mut all = Vec::new();
        for (method, private) in [
            ("RS256", &rsa),
            ("RS384", &rsa),
            ("PS256", &rsa),
            ("PS512", &rsa),
            ("ES256", &p256),
            ("ES384", &p384),
            ("EdDSA", &edwards),
        ] {
            let public = openssl(&["pkey", "-pubout"], Some(private));
            let signer = tokens(method, None, Some(private));
            let both = tokens(method, Some(&public), Some(private));
            let reader = tokens(method, Some(&public), None);
            let token = signer.issue("ann", 7).unwrap();
            assert_eq!(signer.verify(&token), ann(7), "{method}");
            assert_eq!(reader.verify(&token), ann(7), "{method}");
            assert_eq!(reader.verify(&both.issue("ann", 8).unwrap()), ann(8), "{method}");
            let refused = reader.issue("ann", 7).unwrap_err();
            assert_eq!(refused.message, "auth: token signing attempted with verify-only key");
            all.push((method, reader, token));
        }
        for (method, reader, _) in &all {
            for (other, _, token) in all.iter().filter(|(other, ..)| other != method) {
                assert_eq!(reader.verify(token), None, "{method} took {other}'s");
            }
        }
        let method = Method::named("RS256").unwrap();
        let stranger = openssl(&["genrsa", "2048"], None);
        let public = openssl(&["pkey", "-pubout"], Some(&stranger));
        let mismatch = method.keys(Some(&public), Some(&rsa)).err().expect("two pairs");
        assert_eq!(mismatch, "auth-token: pub-key is not the public key of priv-key");
    }

    #[test]
    fn a_token_ends_and_a_header_decides_nothing() {
        let tokens = tokens("HS256", None, Some(b"a secret of some length"));
        let token = tokens.issue("ann", 7).unwrap();
        let now = wall_seconds();
        assert_eq!(tokens.verify_at(&token, now + SECONDS - 2), ann(7));
        assert_eq!(tokens.verify_at(&token, now + SECONDS + 1), None);
        let (_, rest) = token.split_once('.').unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(tokens.verify(&format!("{none}.{rest}")), None);
        let unsigned = format!("{none}.{}.", rest.split_once('.').unwrap().0);
        assert_eq!(tokens.verify(&unsigned), None);
    }

    #[test]
    fn a_token_that_others_made_is_taken_with_or_without_more_claims() {
        let secret = b"a secret of some length";
        let tokens = tokens("HS256", None, Some(secret));
        let made = |claims: &str| {
            let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
            let signed = format!("{}.{}", part(r#"{"typ":"JWT","alg":"HS256"}"#), part(claims));
            let signature = tokens.signing.as_ref().unwrap().sign(signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        let full = r#"{"username":"ann","revision":7,"exp":9999999999,"iss":"them"}"#;
        assert_eq!(tokens.verify(&made(full)), ann(7));
        for lacking in [
            r#"{"username":"ann","revision":7}"#,
            r#"{"username":"ann","revision":7,"exp":"never"}"#,
            r#"{"username":"ann","revision":-1,"exp":9999999999}"#,
            r#"{"revision":7,"exp":9999999999}"#,
            "[]",
        ] {
            assert_eq!(tokens.verify(&made(lacking)), None, "{lacking}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_token_and_never_a_panic(text in "[A-Za-z0-9_.-]{0,80}|.{0,40}") {
            let tokens = tokens("HS512", None, Some(b"a secret of some length"));
            prop_assert_eq!(tokens.verify(&text), None);
        }
    }
}
