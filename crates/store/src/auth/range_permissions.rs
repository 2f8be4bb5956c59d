//! The keys that a user may read, or write: sets of ranges, merged, so that a request may span what
//! several grants cover together.
//!
//! Invariant: the spans are ascending, not empty, and neither overlap nor touch. So a set of keys
//! is allowed if and only if it lies within one of them.

use crate::range::KeyRange;
use bytes::{BufMut, Bytes, BytesMut};

/// Keys that are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangePermissions {
    spans: Vec<Span>,
}

/// `start <= key`, and `key < end` if there is an end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    start: Bytes,
    end: Option<Bytes>,
}

impl RangePermissions {
    /// The union of `ranges`.
    pub(crate) fn of<'a>(ranges: impl IntoIterator<Item = &'a KeyRange>) -> RangePermissions {
        let mut sorted: Vec<Span> = ranges.into_iter().filter_map(Span::of).collect();
        sorted.sort_by(|a, b| a.start.cmp(&b.start));
        let mut spans: Vec<Span> = Vec::new();
        for span in sorted {
            match spans.last_mut() {
                Some(last) if last.reaches(&span.start) => last.extend(span.end),
                _ => spans.push(span),
            }
        }
        RangePermissions { spans }
    }

    /// Whether every key of the set is allowed. Of a set without keys, its start has to be: what
    /// asks for nothing still may not probe.
    pub(crate) fn allow(&self, keys: &KeyRange) -> bool {
        let start = keys.start();
        let behind = self.spans.partition_point(|span| span.start <= *start);
        let Some(span) = behind.checked_sub(1).map(|place| &self.spans[place]) else {
            return false;
        };
        if !span.contains(start) {
            return false;
        }
        match (keys, &span.end) {
            (_, None) | (KeyRange::Key(_), _) => true,
            (KeyRange::From(_), Some(_)) => false,
            (KeyRange::Span { end, .. }, Some(last)) => end <= last,
        }
    }
}

impl Span {
    fn of(keys: &KeyRange) -> Option<Span> {
        let start = keys.start().clone();
        let end = match keys {
            KeyRange::Key(key) => Some(successor(key)),
            KeyRange::Span { end, .. } if *end <= start => return None,
            KeyRange::Span { end, .. } => Some(end.clone()),
            KeyRange::From(_) => None,
        };
        Some(Span { start, end })
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.start <= *key && self.end.as_ref().is_none_or(|end| key < end)
    }

    /// Whether nothing lies between this span and `start`, which is not below its own.
    fn reaches(&self, start: &Bytes) -> bool {
        self.end.as_ref().is_none_or(|end| start <= end)
    }

    fn extend(&mut self, end: Option<Bytes>) {
        self.end = match (self.end.take(), end) {
            (Some(own), Some(other)) => Some(own.max(other)),
            _ => None,
        };
    }
}

/// The smallest key above `key`.
fn successor(key: &Bytes) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every key that the ranges below can tell apart: up to two letters of three.
    fn universe() -> Vec<Bytes> {
        let letters = [0u8, 1, 2];
        let one = letters.iter().map(|a| vec![*a]);
        let two = letters.iter().flat_map(|a| letters.iter().map(|b| vec![*a, *b]));
        let three = letters
            .iter()
            .flat_map(|a| letters.iter().flat_map(|b| letters.iter().map(|c| vec![*a, *b, *c])));
        // Above all of them, for what has no end.
        one.chain(two).chain(three).chain([vec![0xff]]).map(Bytes::from).collect()
    }

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0..3u8, 1..3).prop_map(Bytes::from)
    }

    fn keys() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            key().prop_map(KeyRange::Key),
            (key(), key()).prop_map(|(start, end)| KeyRange::Span { start, end }),
            key().prop_map(KeyRange::From),
        ]
    }

    proptest! {
        #[test]
        fn allows_what_key_by_key_every_grant_together_allows(
            grants in prop::collection::vec(keys(), 0..5),
            asked in keys(),
        ) {
            let permissions = RangePermissions::of(&grants);
            let granted = |key: &Bytes| grants.iter().any(|grant| grant.contains(key));
            let mut wanted: Vec<Bytes> =
                universe().into_iter().filter(|key| asked.contains(key)).collect();
            if wanted.is_empty() {
                wanted.push(asked.start().clone());
            }
            prop_assert_eq!(permissions.allow(&asked), wanted.iter().all(granted));
        }

        #[test]
        fn the_spans_are_ascending_and_apart(grants in prop::collection::vec(keys(), 0..8)) {
            let RangePermissions { spans } = RangePermissions::of(&grants);
            for span in &spans {
                prop_assert!(span.end.as_ref().is_none_or(|end| span.start < *end));
            }
            for pair in spans.windows(2) {
                prop_assert!(pair[0].end.as_ref().is_some_and(|end| *end < pair[1].start));
            }
        }
    }

    #[test]
    fn a_single_key_opens_nothing_above_it() {
        let one = RangePermissions::of(&[KeyRange::Key(Bytes::from("k"))]);
        let span = |end: &'static str| KeyRange::Span { start: "k".into(), end: end.into() };
        assert!(one.allow(&KeyRange::Key("k".into())));
        assert!(one.allow(&span("k\0")), "the same set, said in another way");
        assert!(!one.allow(&KeyRange::From("k".into())));
        assert!(!one.allow(&KeyRange::From("\0".into())));
        assert!(!one.allow(&span("l")));
        assert!(!one.allow(&KeyRange::Key("k\0".into())));
    }

    #[test]
    fn everything_is_what_begins_with_the_smallest_key_and_never_ends() {
        let everything = RangePermissions::of(&[KeyRange::From("\0".into())]);
        assert!(everything.allow(&KeyRange::From("\0".into())));
        assert!(everything.allow(&KeyRange::Key("\0".into())));
        assert!(
            everything.allow(&KeyRange::Span { start: "\0".into(), end: [0xff].as_slice().into() })
        );
    }
}
