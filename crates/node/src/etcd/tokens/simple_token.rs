//! Simple tokens: opaque to clients, sealed with the secret that all members share through the log,
//! so that a token which one member gave out is good at every other one at once.
//!
//! etcd's simple tokens are a table that the log carries; ours carry themselves. Invariant: only
//! who knows the secret can make a token that is read here; the secret changes each time
//! authentication is turned on. A token ends its time to live after its last use at this member, or
//! after it was issued if it was not used here.

use crate::data_directory::random_bytes;
use crate::monotonic_now;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Buf;
use clocks::Monotonic;
use ring::hmac;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store::command::{Caller, TokenSecret};
use wire::etcd::{Code, ProtocolError};

/// Tokens whose last use is remembered, at most twice as many.
const REMEMBERED: usize = 1 << 15;
/// Sets these seals apart from any other use of the secret.
const PURPOSE: &[u8] = b"quorate simple token 1";
const SEAL_BYTES: usize = 32;

/// Gives out tokens and reads them.
pub(in crate::etcd) struct SimpleTokens {
    ttl: Duration,
    used: Mutex<LastUses>,
}

impl SimpleTokens {
    pub(super) fn new(ttl: Duration) -> SimpleTokens {
        SimpleTokens { ttl, used: Mutex::default() }
    }

    pub(super) fn issue(
        &self,
        secret: &TokenSecret,
        name: &str,
        revision: u64,
    ) -> Result<String, ProtocolError> {
        let nonce: [u8; 8] = random_bytes().map_err(|error| {
            ProtocolError::of(Code::Unavailable, format!("quorate: no randomness: {error}"))
        })?;
        Ok(Body { revision, issued_s: wall_seconds(), nonce, name }.seal(secret))
    }

    /// Whom a token names, if it is good.
    pub(super) fn verify(&self, secret: &TokenSecret, token: &str) -> Option<Caller> {
        self.verify_at(secret, token, monotonic_now(), wall_seconds())
    }

    fn verify_at(
        &self,
        secret: &TokenSecret,
        token: &str,
        now: Monotonic,
        wall_s: u64,
    ) -> Option<Caller> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (seal, body) = bytes.split_at_checked(SEAL_BYTES)?;
        hmac::verify(&key(secret), &[PURPOSE, body].concat(), seal).ok()?;
        let body = Body::read(body)?;
        let seal = seal.try_into().expect("split there");
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = match used.last(&seal) {
            Some(last) => now <= last.after(self.ttl),
            // Members' clocks may differ a little: what is issued ahead of ours is new.
            None => wall_s.saturating_sub(body.issued_s) <= self.ttl.as_secs(),
        };
        if !fresh {
            return None;
        }
        used.note(seal, now);
        Some(Caller::User { name: body.name.to_owned(), revision: body.revision })
    }
}

/// What is sealed.
struct Body<'a> {
    revision: u64,
    issued_s: u64,
    /// Two tokens of one second differ.
    nonce: [u8; 8],
    name: &'a str,
}

impl Body<'_> {
    fn seal(&self, secret: &TokenSecret) -> String {
        let revision = self.revision.to_be_bytes();
        let issued = self.issued_s.to_be_bytes();
        let body = [&revision[..], &issued, &self.nonce, self.name.as_bytes()].concat();
        let seal = hmac::sign(&key(secret), &[PURPOSE, &body].concat());
        URL_SAFE_NO_PAD.encode([seal.as_ref(), &body].concat())
    }

    fn read(mut body: &[u8]) -> Option<Body<'_>> {
        let (revision, issued_s) = (body.try_get_u64().ok()?, body.try_get_u64().ok()?);
        let (nonce, name) = body.split_first_chunk()?;
        Some(Body { revision, issued_s, nonce: *nonce, name: str::from_utf8(name).ok()? })
    }
}

fn key(secret: &TokenSecret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &secret.0)
}

fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// When tokens were last used. Bounded: what was not used while as many others were is forgotten,
/// and then counts from when it was issued.
#[derive(Default)]
struct LastUses {
    recent: HashMap<[u8; SEAL_BYTES], Monotonic>,
    older: HashMap<[u8; SEAL_BYTES], Monotonic>,
}

impl LastUses {
    fn last(&self, seal: &[u8; SEAL_BYTES]) -> Option<Monotonic> {
        self.recent.get(seal).or_else(|| self.older.get(seal)).copied()
    }

    fn note(&mut self, seal: [u8; SEAL_BYTES], now: Monotonic) {
        if self.recent.len() >= REMEMBERED && !self.recent.contains_key(&seal) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(seal, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: TokenSecret = TokenSecret([7; 32]);
    const START: Monotonic = Monotonic(1 << 40);
    const ISSUED_S: u64 = 1_000_000;

    fn seconds(count: u64) -> Monotonic {
        START.after(Duration::from_secs(count))
    }

    fn tokens() -> SimpleTokens {
        SimpleTokens::new(Duration::from_secs(300))
    }

    fn token(number: u64) -> String {
        let nonce = number.to_be_bytes();
        Body { revision: 5, issued_s: ISSUED_S, nonce, name: "ann" }.seal(&SECRET)
    }

    fn is_good(tokens: &SimpleTokens, token: &str, after_s: u64) -> bool {
        tokens.verify_at(&SECRET, token, seconds(after_s), ISSUED_S + after_s).is_some()
    }

    #[test]
    fn a_token_names_its_user_at_every_member() {
        let issued = tokens().issue(&SECRET, "ann", 9).expect("there is randomness");
        let caller = tokens().verify(&SECRET, &issued);
        assert_eq!(caller, Some(Caller::User { name: "ann".into(), revision: 9 }));
        assert_eq!(tokens().verify(&TokenSecret([8; 32]), &issued), None, "another secret");
        assert_ne!(issued, tokens().issue(&SECRET, "ann", 9).expect("there is randomness"));
    }

    #[test]
    fn it_ends_after_its_last_use_here_and_without_one_after_its_issue() {
        let tokens = tokens();
        assert!(!is_good(&tokens, &token(1), 301), "never used here");
        assert!(is_good(&tokens, &token(1), 300));
        assert!(is_good(&tokens, &token(1), 600), "used in time");
        assert!(is_good(&tokens, &token(1), 900));
        assert!(!is_good(&tokens, &token(1), 1201));
        assert!(!is_good(&tokens, &token(1), 1202), "and never again");
    }

    #[test]
    fn a_step_of_the_wall_clock_ends_no_token_in_use() {
        let tokens = tokens();
        assert!(is_good(&tokens, &token(1), 0));
        let later = tokens.verify_at(&SECRET, &token(1), seconds(10), ISSUED_S + 9_999);
        assert!(later.is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_least_used_goes_first() {
        let tokens = tokens();
        for number in 0..3 * REMEMBERED as u64 {
            assert!(is_good(&tokens, &token(number), 200));
            if number % 1000 == 0 {
                assert!(is_good(&tokens, &token(0), 200));
            }
        }
        let used = tokens.used.lock().unwrap();
        assert!(used.recent.len() + used.older.len() <= 2 * REMEMBERED);
        drop(used);
        assert!(is_good(&tokens, &token(0), 500), "kept in use");
        assert!(!is_good(&tokens, &token(1), 500), "forgotten: too long after its issue");
    }

    proptest! {
        #[test]
        fn garbage_is_no_token_and_never_a_panic(text in ".{0,120}", bytes: Vec<u8>) {
            prop_assert!(!is_good(&tokens(), &text, 0));
            prop_assert!(!is_good(&tokens(), &URL_SAFE_NO_PAD.encode(bytes), 0));
        }

        #[test]
        fn any_changed_bit_spoils_a_token(at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = URL_SAFE_NO_PAD.decode(token(1)).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(!is_good(&tokens(), &URL_SAFE_NO_PAD.encode(bytes), 0));
        }
    }
}
