//! Rust source with its comments and literals blanked, so that rules see code only.
//!
//! Invariant: the result has the same lines and the same bytes per line as the source wherever it
//! is code; everything else is a space.

/// Blanks comments, strings and character literals; keeps line breaks.
pub(crate) fn mask(source: &str) -> String {
    let mut masker = Masker { rest: source, output: String::with_capacity(source.len()) };
    while !masker.rest.is_empty() {
        masker.step();
    }
    masker.output
}

struct Masker<'a> {
    rest: &'a str,
    output: String,
}

impl Masker<'_> {
    fn step(&mut self) {
        if self.rest.starts_with("//") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.blank(end);
        } else if self.rest.starts_with("/*") {
            self.blank(block_comment_length(self.rest));
        } else if let Some(length) = raw_string_length(self.rest, self.output.chars().last()) {
            self.blank(length);
        } else if self.rest.starts_with('"') {
            self.blank(quoted_length(self.rest, '"'));
        } else if let Some(length) = character_length(self.rest) {
            self.blank(length);
        } else {
            let length = self.rest.chars().next().map_or(0, char::len_utf8);
            self.output.push_str(&self.rest[..length]);
            self.rest = &self.rest[length..];
        }
    }

    fn blank(&mut self, length: usize) {
        let (blanked, rest) = self.rest.split_at(length);
        self.output.extend(blanked.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        self.rest = rest;
    }
}

/// Block comments nest.
fn block_comment_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#` and so on, byte strings included; `before` tells an identifier from a prefix.
fn raw_string_length(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let start = ["r", "br", "cr"].iter().find_map(|prefix| {
        let rest = text.strip_prefix(prefix)?;
        rest.starts_with(['"', '#']).then_some(prefix.len())
    })?;
    let hashes = text[start..].bytes().take_while(|byte| *byte == b'#').count();
    let body = start + hashes;
    if !text[body..].starts_with('"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let end = text[body + 1..].find(&close).map_or(text.len(), |at| body + 1 + at + close.len());
    Some(end)
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return at + 1;
        }
    }
    text.len()
}

/// A character literal, as opposed to a lifetime.
fn character_length(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    if rest.starts_with('\\') {
        return Some(quoted_length(text, '\''));
    }
    let character = rest.chars().next()?;
    let length = 1 + character.len_utf8();
    text[length..].starts_with('\'').then_some(length + 1)
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn code_stays_and_everything_else_is_blank() {
        let source = "let a = \"HashMap\"; // HashMap\nb /* x /* y */ z */ c 'x' 'static '\\'' d";
        let masked = mask(source);
        assert_eq!(masked.len(), source.len());
        assert!(!masked.contains("HashMap"));
        assert_eq!(
            masked.split_whitespace().collect::<Vec<_>>(),
            ["let", "a", "=", ";", "b", "c", "'static", "d"]
        );
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        let masked = mask("x(r#\"a \" HashMap\"#, br\"HashMap\", for_r) HashSet");
        assert!(!masked.contains("HashMap"));
        assert!(masked.contains("for_r) HashSet"));
    }

    #[test]
    fn what_never_ends_is_blank_to_the_end() {
        for source in ["/* open", "\"open", "r#\"open", "'\\", "'"] {
            assert_eq!(mask(source).len(), source.len(), "{source}");
        }
    }
}
