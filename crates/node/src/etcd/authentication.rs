//! How users prove who they are: with a password, once, and then with a token. One for all front
//! ends of a node, and how it is set.

use super::complaints::Complaints;
use super::passwords::{DEFAULT_COST, Passwords};
use super::tokens::{TokenSettings, Tokens};

/// How users prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// What they show after that.
    pub token: TokenSettings,
    /// Work factor of bcrypt (etcd's `--bcrypt-cost`).
    pub bcrypt_cost: u32,
}

impl Default for AuthSettings {
    fn default() -> AuthSettings {
        AuthSettings { token: TokenSettings::default(), bcrypt_cost: DEFAULT_COST }
    }
}

impl AuthSettings {
    /// Reads the settings as people write them: etcd's `--auth-token`, `--auth-token-ttl` in
    /// seconds, `--bcrypt-cost`.
    ///
    /// # Errors
    /// One sentence about the first that is wrong.
    pub fn of(
        token: Option<&str>,
        ttl_s: Option<u64>,
        bcrypt_cost: Option<u32>,
    ) -> Result<AuthSettings, String> {
        let defaults = AuthSettings::default();
        let cost = bcrypt_cost.unwrap_or(defaults.bcrypt_cost);
        if !COSTS.contains(&cost) {
            return Err(format!("bcrypt-cost is {cost}; it should be between 4 and 31"));
        }
        let token = TokenSettings::of(token.unwrap_or("simple"), ttl_s)?;
        Ok(AuthSettings { token, bcrypt_cost: cost })
    }
}

/// Work factors that bcrypt knows.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

/// What checks passwords and tokens.
pub struct Authentication {
    pub(super) passwords: Passwords,
    pub(super) tokens: Tokens,
    /// About wrong passwords.
    pub(super) complaints: Complaints,
}

impl Authentication {
    /// Reads the keys that are set.
    ///
    /// # Errors
    /// One sentence about what is wrong.
    pub fn new(settings: &AuthSettings) -> Result<Authentication, String> {
        let passwords = Passwords::new(settings.bcrypt_cost);
        let passwords = passwords.map_err(|error| format!("cannot read /dev/urandom: {error}"))?;
        let (tokens, complaints) = (Tokens::new(&settings.token)?, Complaints::default());
        Ok(Authentication { passwords, tokens, complaints })
    }
}
