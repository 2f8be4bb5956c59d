//! Bulkhead for passwords: bcrypt takes tens of milliseconds of a core on purpose, so it runs
//! beside the front ends, few at once, and a bounded number wait.
//!
//! A password that was right a moment ago is right again without the work: what is kept of it is
//! a digest under a key that this process drew and nothing else knows. Invariant: no password is
//! kept, and a remembered digest covers user, stored hash and password, so that a new password, or
//! a namesake's, is never taken for the old one.

use super::limits::{PASSWORDS_REMEMBERED, PASSWORDS_RUNNING_MAX, PASSWORDS_WAITING};
use crate::data_directory::random_bytes;
use bytes::Bytes;
use ring::hmac;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use wire::etcd::errors::{STOPPED, TOO_MANY_REQUESTS};
use wire::etcd::{Code, ProtocolError};

/// Work factor if nothing else is set (etcd's `--bcrypt-cost`).
pub(crate) const DEFAULT_COST: u32 = 10;
/// Beyond it a check takes minutes: a hash that a client brings along must not.
const FOREIGN_COST_MAX: u32 = 16;
/// What bcrypt looks at; more would be cut off silently.
const PASSWORD_BYTES_MAX: usize = 72;

/// Hashes and checks passwords, for all front ends of a node.
pub(super) struct Passwords {
    cost: u32,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    right: Mutex<RightLately>,
    /// Of the digests of what was right lately.
    key: hmac::Key,
    /// Checked in place of the hash of a user who has none, so that the time taken does not tell.
    nobodys: Bytes,
}

impl Passwords {
    /// # Errors
    /// The system gives no randomness.
    pub(super) fn new(cost: u32) -> std::io::Result<Passwords> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Passwords {
            cost,
            running: Arc::new(Semaphore::new((threads / 2).clamp(1, PASSWORDS_RUNNING_MAX))),
            waiting: Arc::new(Semaphore::new(PASSWORDS_WAITING)),
            right: Mutex::default(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &random_bytes::<32>()?),
            nobodys: nobodys_hash(cost),
        })
    }

    /// The hash to store for a password.
    ///
    /// # Errors
    /// It is too long, or too many wait.
    pub(super) async fn hash(&self, password: String) -> Result<Bytes, ProtocolError> {
        if password.len() > PASSWORD_BYTES_MAX {
            // As etcd says it.
            let text = "bcrypt: password length exceeds 72 bytes";
            return Err(ProtocolError::of(Code::Unknown, text));
        }
        let cost = self.cost;
        let hash = self.work(|| false, move || bcrypt::hash(password, cost)).await?;
        let Worked::Done(hash) = hash else { unreachable!("a hash is always made") };
        hash.map(Bytes::from).map_err(|error| {
            ProtocolError::of(Code::Unknown, format!("quorate: the password: {error}"))
        })
    }

    /// Whether the password is the one that `hash` was made of; without a hash it never is.
    ///
    /// # Errors
    /// Too many wait.
    pub(super) async fn verify(
        &self,
        user: &str,
        hash: Option<Bytes>,
        password: String,
    ) -> Result<bool, ProtocolError> {
        let (is_users, nobodys) = (hash.is_some(), self.nobodys.clone());
        let hash = hash.unwrap_or_else(|| nobodys.clone());
        // Nobody's is never noted.
        let digest = self.digest(user, &hash, &password);
        let known = || self.lately().holds(&digest);
        let check = move || match verify(&password, &hash) {
            Ok(right) => right && is_users,
            // What is stored is no hash: that must cost the same, too.
            Err(_) => verify(&password, &nobodys).is_ok_and(|_| false),
        };
        match self.work(known, check).await? {
            Worked::Known => Ok(true),
            Worked::Done(right) => {
                if right {
                    self.lately().note(digest);
                }
                Ok(right)
            }
        }
    }

    /// Does the work in its turn, unless its result is known before, or by then. Work that has
    /// begun cannot be called off: it keeps its place and its turn to its end, whoever waits.
    async fn work<T: Send + 'static>(
        &self,
        known: impl Fn() -> bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Worked<T>, ProtocolError> {
        if known() {
            return Ok(Worked::Known);
        }
        let place = Arc::clone(&self.waiting).try_acquire_owned();
        let place = place.map_err(|_| TOO_MANY_REQUESTS)?;
        let turn = Arc::clone(&self.running).acquire_owned().await.map_err(|_| STOPPED)?;
        // Of many who came with the same password, one does the work.
        if known() {
            return Ok(Worked::Known);
        }
        let work = move || {
            let _held = (place, turn);
            work()
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map(Worked::Done).map_err(|error| {
            ProtocolError::of(Code::Unknown, format!("quorate: a password check died: {error}"))
        })
    }

    fn digest(&self, user: &str, hash: &Bytes, password: &str) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), hash, password.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn lately(&self) -> std::sync::MutexGuard<'_, RightLately> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Worked<T> {
    Known,
    Done(T),
}

fn verify(password: &str, hash: &[u8]) -> Result<bool, bcrypt::BcryptError> {
    bcrypt::verify(password, str::from_utf8(hash).unwrap_or_default())
}

/// A hash as this node makes them, of nothing that anybody knows: salt and digest are zeros.
fn nobodys_hash(cost: u32) -> Bytes {
    let zeros = ".".repeat(22 + 31);
    Bytes::from(format!("$2b${cost:02}${zeros}"))
}

/// A hash that a client made itself, if it is one.
///
/// # Errors
/// It is none, or it would take too long to check.
pub(super) fn foreign_hash(base64: &str) -> Result<Bytes, ProtocolError> {
    use base64::Engine;
    let malformed = || {
        let text = "quorate: hashedPassword is not the base64 of a bcrypt hash";
        ProtocolError::of(Code::InvalidArgument, text)
    };
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
    let text = String::from_utf8(bytes.map_err(|_| malformed())?).map_err(|_| malformed())?;
    let parts: bcrypt::HashParts = text.parse().map_err(|_| malformed())?;
    if parts.get_cost() > FOREIGN_COST_MAX {
        let text = format!(
            "quorate: the cost of hashedPassword is {}, at most {FOREIGN_COST_MAX} is possible",
            parts.get_cost()
        );
        return Err(ProtocolError::of(Code::InvalidArgument, text));
    }
    Ok(Bytes::from(text))
}

/// Digests of what was right lately; of twice as many as fit, the older half is forgotten at once.
#[derive(Default)]
struct RightLately {
    recent: HashSet<Digest>,
    older: HashSet<Digest>,
}

type Digest = [u8; 32];

impl RightLately {
    fn holds(&self, digest: &Digest) -> bool {
        self.recent.contains(digest) || self.older.contains(digest)
    }

    fn note(&mut self, digest: Digest) {
        if self.recent.len() >= PASSWORDS_REMEMBERED / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::block_on;
    use super::*;
    use base64::Engine;
    use std::time::Instant;

    fn passwords() -> Passwords {
        Passwords::new(4).expect("there is randomness")
    }

    fn base64_of(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    #[test]
    fn a_password_is_right_only_for_its_user_and_hash() {
        block_on(async {
            let passwords = passwords();
            let hash = passwords.hash("secret".into()).await.unwrap();
            assert!(!hash.windows(6).any(|bytes| bytes == b"secret"));
            for _ in 0..2 {
                let right = passwords.verify("ann", Some(hash.clone()), "secret".into()).await;
                assert_eq!(right, Ok(true));
                let wrong = passwords.verify("ann", Some(hash.clone()), "secreT".into()).await;
                assert_eq!(wrong, Ok(false));
            }
            let other = passwords.hash("other".into()).await.unwrap();
            assert_eq!(passwords.verify("ann", Some(other), "secret".into()).await, Ok(false));
            assert_eq!(passwords.verify("ghost", None, String::new()).await, Ok(false));
            let none = Some(Bytes::new());
            assert_eq!(passwords.verify("ann", none, String::new()).await, Ok(false));
            let long = passwords.hash("x".repeat(PASSWORD_BYTES_MAX + 1)).await.unwrap_err();
            assert_eq!(long.message, "bcrypt: password length exceeds 72 bytes");
            assert!(passwords.hash("x".repeat(PASSWORD_BYTES_MAX)).await.is_ok());
        });
    }

    #[test]
    fn a_hash_made_by_etcd_is_understood() {
        // Go's bcrypt writes version 2a.
        let hash = "$2a$04$W7HOS6bwMgnQ2iBb0e7/puJyWpTQnOT1x9m/LvqfWWBt0K3Ukjrgq";
        let read = foreign_hash(&base64_of(hash)).expect("a hash");
        assert_eq!(&read[..], hash.as_bytes());
        for malformed in ["", "!", &base64_of("secret"), &base64_of("$2a$04$short")] {
            assert!(foreign_hash(malformed).is_err(), "{malformed}");
        }
        let slow = foreign_hash(&base64_of(&hash.replace("$04$", "$31$"))).unwrap_err();
        assert_eq!(slow.code, Code::InvalidArgument);
    }

    #[test]
    fn a_password_that_was_right_lately_costs_nothing() {
        block_on(async {
            let passwords = Passwords::new(9).expect("there is randomness");
            let hash = passwords.hash("secret".into()).await.unwrap();
            let check = || passwords.verify("ann", Some(hash.clone()), "secret".into());
            let began = Instant::now();
            assert_eq!(check().await, Ok(true));
            let first = began.elapsed();
            let began = Instant::now();
            for _ in 0..100 {
                assert_eq!(check().await, Ok(true));
            }
            assert!(began.elapsed() < 10 * first, "a hundred checks took ten times one");
        });
    }

    #[test]
    fn whoever_has_no_hash_costs_as_much_as_whoever_has_one() {
        assert!(!verify("", &nobodys_hash(4)).expect("it is checked to its end"));
        block_on(async {
            let passwords = Passwords::new(9).expect("there is randomness");
            let hash = passwords.hash("secret".into()).await.unwrap();
            let mut times = Vec::new();
            for hash in [Some(hash), Some(Bytes::new()), Some(Bytes::from_static(b"\xff")), None] {
                let began = Instant::now();
                assert_eq!(passwords.verify("ann", hash, "wrong".into()).await, Ok(false));
                times.push(began.elapsed());
            }
            // Without the work, a thousandth.
            assert!(times.iter().all(|time| *time > times[0] / 10), "{times:?}");
        });
    }

    #[test]
    fn work_whose_caller_has_left_keeps_its_place_and_turn() {
        block_on(async {
            let passwords = passwords();
            let turns = passwords.running.available_permits();
            let (begin, begun) = tokio::sync::oneshot::channel();
            let (release, released) = std::sync::mpsc::channel::<()>();
            let work = move || {
                begin.send(()).expect("somebody waits");
                released.recv().expect_err("nothing is said");
            };
            tokio::select! {
                _ = passwords.work(|| false, work) => panic!("it ends before it may"),
                begun = begun => begun.expect("it begins"),
            }
            assert_eq!(passwords.running.available_permits(), turns - 1);
            assert_eq!(passwords.waiting.available_permits(), PASSWORDS_WAITING - 1);
            drop(release);
            let all = u32::try_from(turns).expect("few");
            drop(passwords.running.acquire_many(all).await.expect("it is open"));
            let all = u32::try_from(PASSWORDS_WAITING).expect("few");
            drop(passwords.waiting.acquire_many(all).await.expect("it is open"));
        });
    }

    #[test]
    fn those_who_wait_and_what_is_remembered_are_bounded() {
        block_on(async {
            let passwords = passwords();
            let places = u32::try_from(PASSWORDS_WAITING).unwrap();
            let all = passwords.waiting.try_acquire_many(places).unwrap();
            assert_eq!(passwords.hash("x".into()).await, Err(TOO_MANY_REQUESTS));
            drop(all);
            assert!(passwords.hash("x".into()).await.is_ok());
        });
        let mut lately = RightLately::default();
        for number in 0..3 * PASSWORDS_REMEMBERED as u64 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            lately.note(digest);
            assert!(lately.holds(&digest));
        }
        assert!(lately.recent.len() + lately.older.len() <= PASSWORDS_REMEMBERED);
    }
}
