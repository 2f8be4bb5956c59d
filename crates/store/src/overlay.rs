//! A batch of changes laid over a snapshot of the engine: what is applied later in a batch sees
//! what was applied earlier, and everything reaches the engine at once.
//!
//! Invariant: reading the overlay equals reading the engine after writing the batch.

use crate::mem_engine::is_empty;
use crate::{EngineError, EngineSnapshot, Pair, WriteBatch};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;

/// A snapshot and the changes over it.
pub(crate) struct Overlay {
    base: Box<dyn EngineSnapshot>,
    changes: BTreeMap<Bytes, Option<Bytes>>,
    /// While a transaction runs: what each change replaced in `changes`, in order.
    undo: Option<Vec<(Bytes, Option<Option<Bytes>>)>>,
}

impl Overlay {
    pub(crate) fn new(base: Box<dyn EngineSnapshot>) -> Overlay {
        Overlay { base, changes: BTreeMap::new(), undo: None }
    }

    pub(crate) fn put(&mut self, key: Bytes, value: Bytes) {
        self.change(key, Some(value));
    }

    pub(crate) fn delete(&mut self, key: Bytes) {
        self.change(key, None);
    }

    fn change(&mut self, key: Bytes, value: Option<Bytes>) {
        match &mut self.undo {
            None => {
                self.changes.insert(key, value);
            }
            Some(undo) => {
                let replaced = self.changes.insert(key.clone(), value);
                undo.push((key, replaced));
            }
        }
    }

    /// Starts remembering, so that `roll_back` can return to here.
    pub(crate) fn begin(&mut self) {
        assert!(self.undo.is_none(), "one transaction at a time");
        self.undo = Some(Vec::new());
    }

    pub(crate) fn commit(&mut self) {
        assert!(self.undo.take().is_some(), "only what was begun is committed");
    }

    pub(crate) fn roll_back(&mut self) {
        let undo = self.undo.take().expect("only what was begun is rolled back");
        for (key, replaced) in undo.into_iter().rev() {
            match replaced {
                Some(value) => self.changes.insert(key, value),
                None => self.changes.remove(&key),
            };
        }
    }

    pub(crate) fn into_batch(self) -> WriteBatch {
        WriteBatch { changes: self.changes.into_iter().collect() }
    }

    fn changes_between(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> std::collections::btree_map::Range<'_, Bytes, Option<Bytes>> {
        if is_empty(from, to) {
            return Default::default();
        }
        self.changes.range::<[u8], _>((from, to))
    }
}

impl EngineSnapshot for Overlay {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a> {
        let changes = self.changes_between(from, to);
        let base = self.base.scan(from, to);
        Box::new(Merge {
            base: base.peekable(),
            changes: changes.peekable(),
            first: Ordering::Less,
        })
    }

    fn scan_back<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Box<dyn Iterator<Item = Result<Pair, EngineError>> + 'a> {
        let changes = self.changes_between(from, to).rev();
        let base = self.base.scan_back(from, to);
        let first = Ordering::Greater;
        Box::new(Merge { base: base.peekable(), changes: changes.peekable(), first })
    }
}

/// Two sequences of keys in the same direction; of equal keys the change counts.
struct Merge<B: Iterator, C: Iterator> {
    base: Peekable<B>,
    changes: Peekable<C>,
    /// How a key compares to the keys after it.
    first: Ordering,
}

impl<'a, B, C> Iterator for Merge<B, C>
where
    B: Iterator<Item = Result<Pair, EngineError>>,
    C: Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
{
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((changed, _)) = self.changes.peek() else { return self.base.next() };
            match self.base.peek() {
                Some(Err(_)) => return self.base.next(),
                Some(Ok((key, _))) if key.cmp(changed) == self.first => return self.base.next(),
                Some(Ok((key, _))) if key == *changed => {
                    self.base.next();
                }
                _ => {}
            }
            if let Some((key, Some(value))) = self.changes.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, MemEngine};
    use proptest::prelude::*;

    type Changes = Vec<(u8, Option<u8>)>;

    fn changes() -> impl Strategy<Value = Changes> {
        prop::collection::vec((0..8u8, prop::option::of(any::<u8>())), 0..12)
    }

    fn batch(changes: &Changes) -> WriteBatch {
        let bytes = |byte: u8| Bytes::copy_from_slice(&[byte]);
        WriteBatch { changes: changes.iter().map(|(k, v)| (bytes(*k), v.map(bytes))).collect() }
    }

    fn read(view: &dyn EngineSnapshot, from: u8, to: u8) -> [Vec<Pair>; 2] {
        let (from, to) = ([from], [to]);
        let bounds = || (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        [view.scan(bounds().0, bounds().1), view.scan_back(bounds().0, bounds().1)]
            .map(|pairs| pairs.map(|pair| pair.expect("memory does not fail")).collect())
    }

    fn lay(overlay: &mut Overlay, changes: &Changes) {
        for (key, value) in batch(changes).changes {
            overlay.change(key, value);
        }
    }

    proptest! {
        #[test]
        fn reading_the_overlay_equals_reading_after_the_write(
            first in changes(),
            kept in changes(),
            undone in changes(),
            (from, to) in (0..9u8, 0..9u8),
        ) {
            let engine = MemEngine::new();
            engine.write(batch(&first)).unwrap();
            let mut overlay = Overlay::new(engine.snapshot());
            lay(&mut overlay, &kept);
            overlay.begin();
            lay(&mut overlay, &undone);
            overlay.roll_back();
            let seen = read(&overlay, from, to);
            let written = engine.crash(usize::MAX);
            written.write(overlay.into_batch()).unwrap();
            engine.write(batch(&kept)).unwrap();
            let expected = read(&*engine.snapshot(), from, to);
            prop_assert_eq!(&seen, &expected);
            prop_assert_eq!(read(&*written.snapshot(), from, to), expected);
        }
    }
}
