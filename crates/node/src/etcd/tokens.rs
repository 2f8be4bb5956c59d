//! Tokens: what a user gets for a password, and shows with every call.
//!
//! Whichever kind is set, a token names a user and the auth revision at which the password was
//! right. Whether that still counts is for the users to say (`store`): there is no list of tokens
//! to keep, to search, or to forget an entry of.

mod json_web_token;
mod signature_keys;
mod simple_token;

use crate::auto_compaction::go_duration;
use json_web_token::{JsonWebTokens, JwtSettings};
use signature_keys::Method;
use simple_token::SimpleTokens;
use std::path::PathBuf;
use std::time::Duration;
use store::Accounts;
use store::command::Caller;
use store::reply::AuthError;
use wire::etcd::ProtocolError;
use wire::etcd::errors::{AUTH_OLD_REVISION, INVALID_AUTH_TOKEN};

/// How long a token lasts if nothing else is set.
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// Which tokens there are (etcd's `--auth-token`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSettings {
    /// Ours.
    Simple {
        /// How long one lasts after its last use (etcd's `--auth-token-ttl`).
        ttl: Duration,
    },
    /// JSON web tokens.
    Jwt(JwtSettings),
}

impl Default for TokenSettings {
    fn default() -> TokenSettings {
        TokenSettings::Simple { ttl: TOKEN_TTL }
    }
}

impl TokenSettings {
    /// Reads what people write: `simple`, or `jwt,sign-method=…` and further `name=value`s.
    ///
    /// # Errors
    /// One sentence about the first that is wrong.
    pub(super) fn of(text: &str, ttl_s: Option<u64>) -> Result<TokenSettings, String> {
        let (kind, options) =
            text.split_once(',').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, options) {
            ("simple", None) => {
                // 0 means the default, as in etcd.
                let ttl = ttl_s.filter(|seconds| *seconds > 0).map(Duration::from_secs);
                Ok(TokenSettings::Simple { ttl: ttl.unwrap_or(TOKEN_TTL) })
            }
            ("jwt", Some(options)) => jwt_settings(options).map(TokenSettings::Jwt),
            _ => Err(format!(
                "auth-token is {text:?}; it should be simple, or jwt,sign-method=… with its keys"
            )),
        }
    }
}

fn jwt_settings(options: &str) -> Result<JwtSettings, String> {
    let (mut method, mut ttl, mut public_key, mut private_key) = (None, None, None, None);
    for option in options.split(',') {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("auth-token: {option:?} should be name=value"))?;
        let again = match name {
            "sign-method" => method.replace(Method::named(value)?).is_some(),
            "pub-key" => public_key.replace(PathBuf::from(value)).is_some(),
            "priv-key" => private_key.replace(PathBuf::from(value)).is_some(),
            "ttl" => {
                let given = go_duration(value).filter(|ttl| ttl.as_secs() > 0);
                let malformed = || format!("auth-token: ttl is {value:?}; it should look like 5m");
                ttl.replace(given.ok_or_else(malformed)?).is_some()
            }
            _ => return Err(format!("auth-token: there is no option {name:?}")),
        };
        if again {
            return Err(format!("auth-token: {name} is given twice"));
        }
    }
    let method = method.ok_or("auth-token: jwt needs sign-method")?;
    Ok(JwtSettings { method, public_key, private_key, ttl: ttl.unwrap_or(TOKEN_TTL) })
}

/// Gives out tokens and reads them, for all front ends of a node.
pub(super) enum Tokens {
    Simple(SimpleTokens),
    Jwt(Box<JsonWebTokens>),
}

impl Tokens {
    /// # Errors
    /// One sentence about a key that cannot be used.
    pub(super) fn new(settings: &TokenSettings) -> Result<Tokens, String> {
        Ok(match settings {
            TokenSettings::Simple { ttl } => Tokens::Simple(SimpleTokens::new(*ttl)),
            TokenSettings::Jwt(settings) => Tokens::Jwt(Box::new(JsonWebTokens::new(settings)?)),
        })
    }

    /// A token for a user whose password was right by these accounts.
    pub(super) fn issue(&self, accounts: &Accounts, name: &str) -> Result<String, ProtocolError> {
        match self {
            Tokens::Simple(tokens) => tokens.issue(accounts.secret(), name, accounts.revision()),
            Tokens::Jwt(tokens) => tokens.issue(name, accounts.revision()),
        }
    }

    /// Whom a token names.
    ///
    /// # Errors
    /// It is none of ours, too old, or overtaken by a change of its user.
    pub(super) fn verify(&self, accounts: &Accounts, token: &str) -> Result<Caller, ProtocolError> {
        let (caller, overtaken) = match self {
            Tokens::Simple(tokens) => (tokens.verify(accounts.secret(), token), INVALID_AUTH_TOKEN),
            // As in etcd, where it outlives its user but not what it was proved by.
            Tokens::Jwt(tokens) => (tokens.verify(token), AUTH_OLD_REVISION),
        };
        let caller = caller.ok_or(INVALID_AUTH_TOKEN)?;
        match accounts.standing(Some(&caller)) {
            Ok(_) => Ok(caller),
            Err(AuthError::OldRevision) => Err(overtaken),
            // A member that lags may not know them yet; where the call goes, they are known.
            Err(_) if is_ahead(&caller, accounts) || matches!(self, Tokens::Jwt(_)) => Ok(caller),
            Err(_) => Err(INVALID_AUTH_TOKEN),
        }
    }
}

fn is_ahead(caller: &Caller, accounts: &Accounts) -> bool {
    matches!(caller, Caller::User { revision, .. } if *revision > accounts.revision())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_takes_is_taken_and_mistakes_are_named() {
        let of = |text: &str| TokenSettings::of(text, None);
        assert_eq!(of("simple"), Ok(TokenSettings::default()));
        let minute = TokenSettings::Simple { ttl: Duration::from_secs(60) };
        assert_eq!(TokenSettings::of("simple", Some(60)), Ok(minute));
        assert_eq!(TokenSettings::of("simple", Some(0)), Ok(TokenSettings::default()));
        let full = of("jwt,pub-key=app.rsa.pub,priv-key=app.rsa,sign-method=RS512,ttl=1h30m");
        let Ok(TokenSettings::Jwt(jwt)) = full else { panic!("{full:?}") };
        assert_eq!(jwt.public_key, Some("app.rsa.pub".into()));
        assert_eq!((jwt.ttl, jwt.method.name()), (Duration::from_secs(5400), "RS512"));
        for (text, named) in [
            ("", "auth-token"),
            ("simple,ttl=1m", "auth-token"),
            ("jwt", "auth-token"),
            ("jwt,priv-key=a", "sign-method"),
            ("jwt,sign-method=RS128", "RS128"),
            ("jwt,sign-method=ES512", "ES512"),
            ("jwt,sign-method=none", "none"),
            ("jwt,sign-method=HS256,ttl=soon", "soon"),
            ("jwt,sign-method=HS256,ttl=0s", "0s"),
            ("jwt,sign-method=HS256,key", "key"),
            ("jwt,sign-method=HS256,color=blue", "color"),
            ("jwt,sign-method=HS256,sign-method=HS256", "twice"),
        ] {
            let sentence = of(text).expect_err(text);
            assert!(sentence.contains(named), "{text}: {sentence}");
        }
    }

    #[test]
    fn a_key_that_is_missing_is_named() {
        let settings = TokenSettings::of("jwt,sign-method=RS256,priv-key=/no/such/file", None);
        let sentence = Tokens::new(&settings.unwrap()).err().expect("there is no such file");
        assert!(sentence.starts_with("cannot read /no/such/file: "), "{sentence}");
        let settings = TokenSettings::of("jwt,sign-method=RS256", None).unwrap();
        assert_eq!(
            Tokens::new(&settings).err().unwrap(),
            "auth-token: jwt needs priv-key or pub-key"
        );
    }
}
