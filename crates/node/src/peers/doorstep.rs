//! Doorstep: where callers are until they have introduced themselves.
//!
//! Invariant: no more than so many are on it. Whoever comes when it is full takes the place of the
//! one who has been there longest, so that callers who say nothing keep no member out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Callers that have not introduced themselves yet.
const STRANGERS_MAX: usize = 64;

/// Clones share it.
#[derive(Clone, Default)]
pub(super) struct Doorstep {
    strangers: Arc<Mutex<Strangers>>,
}

#[derive(Default)]
struct Strangers {
    came: u64,
    /// By when they came.
    there: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A caller's place, until it is dropped.
pub(super) struct Stranger {
    number: u64,
    sent_off: oneshot::Receiver<()>,
    doorstep: Doorstep,
}

impl Doorstep {
    /// A place for a caller, if need be that of another one.
    pub(super) fn enter(&self) -> Stranger {
        let (send_off, sent_off) = oneshot::channel();
        let mut strangers = self.lock();
        if strangers.there.len() >= STRANGERS_MAX
            && let Some((_, oldest)) = strangers.there.pop_first()
        {
            // It may just be leaving.
            let _ = oldest.send(());
        }
        strangers.came += 1;
        let number = strangers.came;
        strangers.there.insert(number, send_off);
        assert!(strangers.there.len() <= STRANGERS_MAX, "the doorstep is bounded");
        Stranger { number, sent_off, doorstep: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stranger {
    /// Waits until somebody else takes the place.
    pub(super) async fn sent_off(&mut self) {
        // What would send them off is dropped only with them.
        let _ = (&mut self.sent_off).await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.doorstep.lock().there.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_to_a_full_doorstep_takes_the_place_of_the_oldest() {
        let doorstep = Doorstep::default();
        let mut strangers: Vec<_> = (0..STRANGERS_MAX).map(|_| doorstep.enter()).collect();
        drop(strangers.remove(3));
        strangers.push(doorstep.enter());
        for stranger in &mut strangers {
            assert!(stranger.sent_off.try_recv().is_err(), "there was room");
        }
        let _last = doorstep.enter();
        assert!(strangers[0].sent_off.try_recv().is_ok());
        assert!(strangers[1].sent_off.try_recv().is_err());
        assert_eq!(doorstep.lock().there.len(), STRANGERS_MAX);
        strangers.clear();
        assert_eq!(doorstep.lock().there.len(), 1);
    }
}
