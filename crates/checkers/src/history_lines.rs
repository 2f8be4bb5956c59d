//! History as lines: one JSON object per operation, to keep beside a failing run and check again.
//!
//! Bytes are JSON strings in which the character U+00XX stands for the byte 0xXX, so that any key
//! and value survives the round trip and plain text stays readable.
//!
//! ```text
//! {"client":1,"call":10,"key":"a","op":"put","value":"1","at":12,"revision":2}
//! {"client":2,"call":11,"key":"a","op":"get","at":14,"revision":2,"read":"1","mod_revision":2}
//! {"client":1,"call":15,"key":"a","op":"cas","expect":"1","value":"2","at":19,"succeeded":true}
//! {"client":2,"call":16,"key":"a","op":"delete","outcome":"unknown"}
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use crate::history::{Input, Operation, Outcome, Output};

/// A line that is not an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the history: {}", self.line, self.why)
    }
}

impl std::error::Error for LineError {}

pub(crate) fn write(operations: &[Operation]) -> String {
    let mut text = String::with_capacity(operations.len() * 96);
    for operation in operations {
        write_line(&mut text, operation).expect("writing to a string does not fail");
    }
    text
}

fn write_line(text: &mut String, operation: &Operation) -> fmt::Result {
    let Operation { client, key, input, call, outcome } = operation;
    write!(text, "{{\"client\":{client},\"call\":{call},\"key\":{}", Quoted(Some(key)))?;
    match input {
        Input::Put { value } => write!(text, ",\"op\":\"put\",\"value\":{}", Quoted(Some(value)))?,
        Input::Get => text.push_str(",\"op\":\"get\""),
        Input::CompareAndSet { expect, set } => {
            let (expect, set) = (Quoted(expect.as_deref()), Quoted(Some(set)));
            write!(text, ",\"op\":\"cas\",\"expect\":{expect},\"value\":{set}")?;
        }
        Input::Delete => text.push_str(",\"op\":\"delete\""),
    }
    match outcome {
        Outcome::Unknown => text.push_str(",\"outcome\":\"unknown\""),
        Outcome::Failed => text.push_str(",\"outcome\":\"failed\""),
        Outcome::Ok { at, revision, output } => {
            write!(text, ",\"at\":{at}")?;
            write_number(text, "revision", *revision)?;
            match output {
                Output::Put => {}
                Output::Get { value, mod_revision } => {
                    write!(text, ",\"read\":{}", Quoted(value.as_deref()))?;
                    write_number(text, "mod_revision", *mod_revision)?;
                }
                Output::CompareAndSet { succeeded } => write!(text, ",\"succeeded\":{succeeded}")?,
                Output::Delete { deleted } => write!(text, ",\"deleted\":{deleted}")?,
            }
        }
    }
    text.push_str("}\n");
    Ok(())
}

fn write_number(text: &mut String, name: &str, number: Option<u64>) -> fmt::Result {
    number.map_or(Ok(()), |number| write!(text, ",\"{name}\":{number}"))
}

struct Quoted<'a>(Option<&'a [u8]>);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.0 else { return f.write_str("null") };
        f.write_char('"')?;
        for &byte in bytes {
            match byte {
                b'"' => f.write_str("\\\"")?,
                b'\\' => f.write_str("\\\\")?,
                b' '..=b'~' => f.write_char(char::from(byte))?,
                _ => write!(f, "\\u{byte:04x}")?,
            }
        }
        f.write_char('"')
    }
}

pub(crate) fn parse(line: &str) -> Result<Operation, String> {
    let mut fields = Fields(Scanner { rest: line }.object()?);
    let client = fields.number("client")?;
    let call = fields.number("call")?;
    let key = fields.bytes("key")?.ok_or("\"key\" is null")?;
    let op = fields.bytes("op")?.unwrap_or_default();
    let input = match op.as_slice() {
        b"put" => Input::Put { value: fields.bytes("value")?.ok_or("\"value\" is null")? },
        b"get" => Input::Get,
        b"cas" => Input::CompareAndSet {
            expect: fields.bytes("expect")?,
            set: fields.bytes("value")?.ok_or("\"value\" is null")?,
        },
        b"delete" => Input::Delete,
        _ => return Err("\"op\" is none of put, get, cas, delete".to_owned()),
    };
    let outcome = outcome(&mut fields, &input)?;
    match fields.0.pop_first() {
        Some((name, _)) => Err(format!("unexpected field \"{name}\"")),
        None => Ok(Operation { client, key, input, call, outcome }),
    }
}

fn outcome(fields: &mut Fields, input: &Input) -> Result<Outcome, String> {
    if fields.0.contains_key("outcome") {
        return match fields.bytes("outcome")?.as_deref() {
            Some(b"unknown") => Ok(Outcome::Unknown),
            Some(b"failed") => Ok(Outcome::Failed),
            _ => Err("\"outcome\" is neither unknown nor failed".to_owned()),
        };
    }
    let at = fields.number("at")?;
    let revision = fields.optional_number("revision")?;
    let output = match input {
        Input::Put { .. } => Output::Put,
        Input::Get => Output::Get {
            value: fields.bytes("read")?,
            mod_revision: fields.optional_number("mod_revision")?,
        },
        Input::CompareAndSet { .. } => {
            Output::CompareAndSet { succeeded: fields.flag("succeeded")? }
        }
        Input::Delete => Output::Delete { deleted: fields.flag("deleted")? },
    };
    Ok(Outcome::Ok { at, revision, output })
}

enum Json {
    Null,
    Flag(bool),
    Number(u64),
    Bytes(Vec<u8>),
}

struct Fields(BTreeMap<String, Json>);

impl Fields {
    fn take(&mut self, name: &str) -> Result<Json, String> {
        self.0.remove(name).ok_or_else(|| format!("\"{name}\" is missing"))
    }

    fn number(&mut self, name: &str) -> Result<u64, String> {
        match self.take(name)? {
            Json::Number(number) => Ok(number),
            _ => Err(format!("\"{name}\" is not a number")),
        }
    }

    fn optional_number(&mut self, name: &str) -> Result<Option<u64>, String> {
        if self.0.contains_key(name) { self.number(name).map(Some) } else { Ok(None) }
    }

    fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name)? {
            Json::Flag(flag) => Ok(flag),
            _ => Err(format!("\"{name}\" is neither true nor false")),
        }
    }

    fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, String> {
        match self.take(name)? {
            Json::Bytes(bytes) => Ok(Some(bytes)),
            Json::Null => Ok(None),
            _ => Err(format!("\"{name}\" is not a string")),
        }
    }
}

/// Reads the part of JSON that [`write`] uses: one flat object.
struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    fn object(&mut self) -> Result<BTreeMap<String, Json>, String> {
        let mut fields = BTreeMap::new();
        self.expect('{')?;
        loop {
            self.expect('"')?;
            let name = self.string()?.into_iter().map(char::from).collect::<String>();
            self.expect(':')?;
            let value = self.value()?;
            if fields.insert(name.clone(), value).is_some() {
                return Err(format!("\"{name}\" is there twice"));
            }
            if !self.accept(',') {
                break;
            }
        }
        self.expect('}')?;
        match self.rest.trim() {
            "" => Ok(fields),
            _ => Err("text after the object".to_owned()),
        }
    }

    fn value(&mut self) -> Result<Json, String> {
        if self.accept('"') {
            return self.string().map(Json::Bytes);
        }
        let end = self.rest.find([',', '}']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word.trim() {
            "null" => Ok(Json::Null),
            "true" => Ok(Json::Flag(true)),
            "false" => Ok(Json::Flag(false)),
            number => match number.parse() {
                Ok(number) => Ok(Json::Number(number)),
                Err(_) => Err(format!("{} is no value", number.escape_debug())),
            },
        }
    }

    /// The rest of a string, whose opening quote has been read.
    fn string(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut characters = self.rest.chars();
        loop {
            let character = match characters.next().ok_or("a string that does not end")? {
                '"' => break,
                '\\' => match characters.next() {
                    Some(escaped @ ('"' | '\\' | '/')) => escaped,
                    Some('u') => {
                        let code = characters.as_str().get(..4).ok_or("a cut \\u escape")?;
                        let code = u32::from_str_radix(code, 16).map_err(|_| "a bad \\u escape")?;
                        characters.nth(3);
                        char::from_u32(code).ok_or("a bad \\u escape")?
                    }
                    _ => return Err("an unknown escape".to_owned()),
                },
                character => character,
            };
            let byte = u8::try_from(u32::from(character));
            bytes.push(byte.map_err(|_| "a character above U+00FF, which is no byte")?);
        }
        self.rest = characters.as_str();
        Ok(bytes)
    }

    fn accept(&mut self, character: char) -> bool {
        let stripped = self.rest.trim_start().strip_prefix(character);
        self.rest = stripped.unwrap_or(self.rest);
        stripped.is_some()
    }

    fn expect(&mut self, character: char) -> Result<(), String> {
        if self.accept(character) { Ok(()) } else { Err(format!("'{character}' expected")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_an_operation_is_refused_with_its_place() {
        let good = r#"{"client":1,"call":1,"key":"a","op":"delete","outcome":"failed"}"#;
        for (bad, why) in [
            ("nonsense", "'{' expected"),
            (r#"{"client":1}"#, "\"call\" is missing"),
            (r#"{"client":1,"client":1}"#, "\"client\" is there twice"),
            (r#"{"client":-1,"call":1}"#, "-1 is no value"),
            (r#"{"client":1,"call":1,"key":"a","op":"x"}"#, "\"op\" is none of"),
            (r#"{"client":1,"call":9,"key":"a","op":"put","value":"","at":8}"#, "before or unlike"),
            (r#"{"client":1,"call":1,"key":"a","op":"get","outcome":"unknown","x":1}"#, "\"x\""),
            (r#"{"client":1,"call":1,"key":"a\u12"#, "a cut \\u escape"),
            (r#"{"client":1,"call":1,"key":"€"}"#, "no byte"),
            (r#"{"client":1,"call":1,"key":"a"#, "does not end"),
        ] {
            let error = History::from_lines(&format!("{good}\n\n{bad}\n")).unwrap_err();
            assert_eq!(error.line, 3);
            assert!(error.why.contains(why), "{bad}: {error}");
        }
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..5)
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let revision = || prop::option::of(any::<u64>());
        let input_and_output = prop_oneof![
            bytes().prop_map(|value| (Input::Put { value }, Output::Put)),
            (prop::option::of(bytes()), revision()).prop_map(|(value, mod_revision)| (
                Input::Get,
                Output::Get { value, mod_revision }
            )),
            (prop::option::of(bytes()), bytes(), any::<bool>()).prop_map(
                |(expect, set, succeeded)| {
                    let input = Input::CompareAndSet { expect, set };
                    (input, Output::CompareAndSet { succeeded })
                }
            ),
            any::<bool>().prop_map(|deleted| (Input::Delete, Output::Delete { deleted })),
        ];
        (any::<u64>(), bytes(), input_and_output, any::<u32>(), any::<u32>(), revision(), 0..3)
            .prop_map(|(client, key, (input, output), call, took, revision, kind)| {
                let call = u64::from(call);
                let outcome = match kind {
                    0 => Outcome::Unknown,
                    1 => Outcome::Failed,
                    _ => Outcome::Ok { at: call + u64::from(took), revision, output },
                };
                Operation { client, key, input, call, outcome }
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(operations in prop::collection::vec(operation(), 0..8)) {
            let history: History = operations.into_iter().collect();
            prop_assert_eq!(History::from_lines(&history.to_lines()), Ok(history));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = History::from_lines(&text);
            let _ = History::from_lines(&format!("{{\"client\":{text}}}"));
        }
    }
}
