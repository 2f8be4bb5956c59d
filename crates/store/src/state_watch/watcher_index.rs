//! Who watches a key: a map for single keys, and an interval tree for ranges, so that fanning an
//! event out costs what its watchers cost, not what all watchers do.
//!
//! The tree is a treap (Seidel and Aragon, "Randomized Search Trees", 1996) ordered by start, then
//! end; each node knows the greatest end below it (Cormen et al., "Interval Trees"). Priorities
//! come from a counter, so that equal histories give equal trees.

use crate::range::KeyRange;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Names a watcher within a hub; never reused.
pub(crate) type WatcherKey = u64;

/// Watchers by what they watch.
#[derive(Default)]
pub(crate) struct WatcherIndex {
    keys: BTreeMap<Bytes, BTreeSet<WatcherKey>>,
    ranges: IntervalTree,
    length: usize,
}

impl WatcherIndex {
    /// Adds a watcher that is not there yet.
    pub(crate) fn insert(&mut self, keys: &KeyRange, watcher: WatcherKey) {
        let fresh = match interval(keys) {
            Err(key) => self.keys.entry(key.clone()).or_default().insert(watcher),
            Ok(interval) => self.ranges.insert(interval, watcher),
        };
        assert!(fresh, "a watcher is indexed once");
        self.length += 1;
    }

    /// Removes a watcher that is there.
    pub(crate) fn remove(&mut self, keys: &KeyRange, watcher: WatcherKey) {
        let found = match interval(keys) {
            Ok(interval) => self.ranges.remove(&interval, watcher),
            Err(key) => {
                let watchers = self.keys.get_mut(key).expect("an indexed key has watchers");
                let found = watchers.remove(&watcher);
                if watchers.is_empty() {
                    self.keys.remove(key);
                }
                found
            }
        };
        assert!(found, "only an indexed watcher is removed");
        self.length -= 1;
    }

    /// Visits everyone who watches `key`, each once.
    pub(crate) fn visit(&self, key: &[u8], mut visit: impl FnMut(WatcherKey)) {
        if let Some(watchers) = self.keys.get(key) {
            watchers.iter().for_each(|watcher| visit(*watcher));
        }
        self.ranges.stab(self.ranges.root, key, &mut visit);
    }

    /// How many watchers there are.
    pub(crate) fn len(&self) -> usize {
        self.length
    }
}

/// The range as an interval, or the single key.
fn interval(keys: &KeyRange) -> Result<Interval, &Bytes> {
    match keys {
        KeyRange::Key(key) => Err(key),
        KeyRange::Span { start, end } => {
            Ok(Interval { start: start.clone(), end: End::Before(end.clone()) })
        }
        KeyRange::From(start) => Ok(Interval { start: start.clone(), end: End::Never }),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Interval {
    start: Bytes,
    end: End,
}

/// Where an interval ends; `Never` is behind every key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn is_behind(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..],
            End::Never => true,
        }
    }
}

type Link = Option<usize>;

struct Node {
    interval: Interval,
    /// The greatest end in this subtree.
    greatest_end: End,
    priority: u64,
    left: Link,
    right: Link,
    /// Not empty.
    watchers: BTreeSet<WatcherKey>,
}

#[derive(Default)]
struct IntervalTree {
    nodes: Vec<Option<Node>>,
    free: Vec<usize>,
    root: Link,
    inserted: u64,
}

impl IntervalTree {
    fn insert(&mut self, interval: Interval, watcher: WatcherKey) -> bool {
        if let Some(found) = self.find(&interval) {
            return self.node_mut(found).watchers.insert(watcher);
        }
        self.inserted += 1;
        let node = Node {
            greatest_end: interval.end.clone(),
            interval,
            priority: scatter(self.inserted),
            left: None,
            right: None,
            watchers: BTreeSet::from([watcher]),
        };
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.nodes.push(None);
                self.nodes.len() - 1
            }
        };
        let (before, behind) = self.split(self.root, &node.interval);
        self.nodes[place] = Some(node);
        let left = self.merge(before, Some(place));
        self.root = self.merge(left, behind);
        true
    }

    fn remove(&mut self, interval: &Interval, watcher: WatcherKey) -> bool {
        let Some(found) = self.find(interval) else { return false };
        let node = self.node_mut(found);
        let removed = node.watchers.remove(&watcher);
        if node.watchers.is_empty() {
            self.root = self.detach(self.root, interval);
            self.nodes[found] = None;
            self.free.push(found);
        }
        removed
    }

    fn stab(&self, link: Link, key: &[u8], visit: &mut impl FnMut(WatcherKey)) {
        let Some(place) = link else { return };
        let node = self.node(place);
        if !node.greatest_end.is_behind(key) {
            return;
        }
        self.stab(node.left, key, visit);
        if &node.interval.start[..] <= key {
            if node.interval.end.is_behind(key) {
                node.watchers.iter().for_each(|watcher| visit(*watcher));
            }
            self.stab(node.right, key, visit);
        }
    }

    fn find(&self, interval: &Interval) -> Link {
        let mut link = self.root;
        while let Some(place) = link {
            let node = self.node(place);
            link = match interval.cmp(&node.interval) {
                std::cmp::Ordering::Less => node.left,
                std::cmp::Ordering::Greater => node.right,
                std::cmp::Ordering::Equal => return link,
            };
        }
        None
    }

    /// Splits a subtree into what is before `interval` and what is behind it; it is not in it.
    fn split(&mut self, link: Link, interval: &Interval) -> (Link, Link) {
        let Some(place) = link else { return (None, None) };
        if self.node(place).interval < *interval {
            let (before, behind) = self.split(self.node(place).right, interval);
            self.node_mut(place).right = before;
            self.refresh(place);
            (Some(place), behind)
        } else {
            let (before, behind) = self.split(self.node(place).left, interval);
            self.node_mut(place).left = behind;
            self.refresh(place);
            (before, Some(place))
        }
    }

    /// Joins two subtrees; everything of `left` is before everything of `right`.
    fn merge(&mut self, left: Link, right: Link) -> Link {
        let (Some(before), Some(behind)) = (left, right) else { return left.or(right) };
        if self.node(before).priority > self.node(behind).priority {
            let merged = self.merge(self.node(before).right, right);
            self.node_mut(before).right = merged;
            self.refresh(before);
            left
        } else {
            let merged = self.merge(left, self.node(behind).left);
            self.node_mut(behind).left = merged;
            self.refresh(behind);
            right
        }
    }

    /// Takes the node of `interval`, which is there, out of a subtree.
    fn detach(&mut self, link: Link, interval: &Interval) -> Link {
        let place = link.expect("the node to detach was found before");
        let node = self.node(place);
        match interval.cmp(&node.interval) {
            std::cmp::Ordering::Equal => return self.merge(node.left, node.right),
            std::cmp::Ordering::Less => {
                let left = self.detach(node.left, interval);
                self.node_mut(place).left = left;
            }
            std::cmp::Ordering::Greater => {
                let right = self.detach(node.right, interval);
                self.node_mut(place).right = right;
            }
        }
        self.refresh(place);
        link
    }

    fn refresh(&mut self, place: usize) {
        let node = self.node(place);
        let below = [node.left, node.right].into_iter().flatten();
        let ends = below.map(|child| &self.node(child).greatest_end);
        let greatest = ends.chain([&node.interval.end]).max().expect("its own end at least");
        let greatest = greatest.clone();
        self.node_mut(place).greatest_end = greatest;
    }

    fn node(&self, place: usize) -> &Node {
        self.nodes[place].as_ref().expect("links lead to nodes")
    }

    fn node_mut(&mut self, place: usize) -> &mut Node {
        self.nodes[place].as_mut().expect("links lead to nodes")
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn scatter(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user_key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'c']), 0..4)
            .prop_map(Bytes::from)
    }

    fn keys() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            user_key().prop_map(KeyRange::Key),
            user_key().prop_map(KeyRange::From),
            (user_key(), user_key()).prop_map(|(start, end)| KeyRange::Span { start, end }),
        ]
    }

    fn depth(tree: &IntervalTree, link: Link) -> usize {
        link.map_or(0, |place| {
            let node = tree.node(place);
            1 + depth(tree, node.left).max(depth(tree, node.right))
        })
    }

    proptest! {
        /// Against the dumb form: ask every watcher.
        #[test]
        fn it_finds_exactly_the_watchers_of_a_key(
            inserted in prop::collection::vec(keys(), 0..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            asked in prop::collection::vec(user_key(), 0..10),
        ) {
            let mut index = WatcherIndex::default();
            let mut watchers: BTreeMap<_, _> = (0..).zip(inserted).collect();
            watchers.iter().for_each(|(watcher, keys)| index.insert(keys, *watcher));
            for place in removed {
                if !watchers.is_empty() {
                    let watcher = *watchers.keys().nth(place.index(watchers.len())).unwrap();
                    index.remove(&watchers.remove(&watcher).unwrap(), watcher);
                }
            }
            prop_assert_eq!(index.len(), watchers.len());
            for key in asked {
                let mut found = Vec::new();
                index.visit(&key, |watcher| found.push(watcher));
                found.sort_unstable();
                let expected = watchers.iter().filter(|(_, keys)| keys.contains(&key));
                prop_assert_eq!(found, expected.map(|(watcher, _)| *watcher).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn ascending_ranges_do_not_make_a_list_of_the_tree() {
        let mut tree = IntervalTree::default();
        for number in 0..10_000u32 {
            let start = Bytes::copy_from_slice(&number.to_be_bytes());
            tree.insert(Interval { start, end: End::Never }, u64::from(number));
        }
        assert!(depth(&tree, tree.root) < 64, "{}", depth(&tree, tree.root));
    }
}
