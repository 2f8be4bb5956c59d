//! Settings from environment variables: our own, `QUORATE_*`, and etcd's, `ETCD_*`.
//!
//! Ours are complete: one that is unknown is refused. Of etcd's, unknown ones are only told of, as
//! etcd does: images and orchestrators set variables of the same shape for purposes of their own.

use super::Settings;
use super::etcd_flags::{Meaning, meaning, without_meaning};
use toml::{Table, Value};

impl Settings {
    /// Picks the `QUORATE_*` and `ETCD_*` variables out of `variables`; the former win.
    ///
    /// # Errors
    /// One sentence about a variable that is unknown or malformed.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Settings, String> {
        let (mut own, mut etcds, mut notes) = (Table::new(), Table::new(), Vec::new());
        for (variable, value) in variables {
            if let Some(key) = variable.strip_prefix("QUORATE_") {
                if !is_foreign(key) {
                    let key = dashed(key);
                    let value = typed(&key, &value)
                        .map_err(|error| format!("environment variable {variable}: {error}"))?;
                    own.insert(key, value);
                }
            } else if let Some(key) = variable.strip_prefix("ETCD_") {
                // etcd takes an empty variable for one that is not set.
                if !value.is_empty() {
                    take_etcds(&variable, &dashed(key), &value, &mut etcds, &mut notes)?;
                }
            }
        }
        notes.sort_unstable();
        let settings = |table: Table| table.try_into::<Settings>().map_err(|e| sentence(&e));
        let etcds = Settings { notes, ..settings(etcds)? };
        Ok(settings(own)?.or(etcds))
    }
}

fn take_etcds(
    variable: &str,
    key: &str,
    value: &str,
    table: &mut Table,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let origin = format!("environment variable {variable}");
    let own = match meaning(key) {
        Some(Meaning::Same) => key.strip_prefix("experimental-").unwrap_or(key),
        Some(Meaning::Named(own)) => own,
        Some(meaning) => {
            notes.extend(without_meaning(&origin, meaning, value)?);
            return Ok(());
        }
        None => {
            notes.push(format!("{origin} is ignored: etcd has no such flag"));
            return Ok(());
        }
    };
    let value = typed(own, value).map_err(|error| format!("{origin}: {error}"))?;
    table.insert(own.to_owned(), value);
    Ok(())
}

fn dashed(key: &str) -> String {
    key.to_ascii_lowercase().replace('_', "-")
}

/// The value of one setting, as whatever type the setting has.
fn typed(key: &str, text: &str) -> Result<Value, String> {
    let fits = |value: &Value| {
        let single: Table = [(key.to_owned(), value.clone())].into_iter().collect();
        single.try_into::<Settings>().map(drop).map_err(|error| sentence(&error))
    };
    let as_text = Value::String(text.to_owned());
    let Err(complaint) = fits(&as_text) else { return Ok(as_text) };
    let number = text.parse().ok().map(Value::Integer);
    let switch = go_bool(text).map(Value::Boolean);
    let other = [number, switch].into_iter().flatten().find(|value| fits(value).is_ok());
    other.ok_or(complaint)
}

/// What Go's flags take for yes and no.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Variables that are not settings: the log filter, and what Kubernetes sets for a service that is
/// called "quorate".
fn is_foreign(key: &str) -> bool {
    key == "LOG" || key.starts_with("SERVICE_") || key == "PORT" || key.starts_with("PORT_")
}

/// What the decoder says, without its list of every setting that there is: some are hidden.
pub(super) fn sentence(error: &toml::de::Error) -> String {
    let said = error.message().replace('\n', " ");
    match said.strip_prefix("unknown field ").and_then(|rest| rest.split_once(", ")) {
        Some((name, _)) => {
            format!("unknown setting {name}; quorate start --help lists those there are")
        }
        None => said,
    }
}
