//! Keeps transactions out while LMDB's map changes its place.
//!
//! Every transaction holds a [`Pass`] until after it has ended; the map may be moved only by who holds a [`Closed`]
//! gate, and there is none while anybody is inside. That is the whole proof that growing is sound. The gate knows
//! nothing of LMDB.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::store::StoreError;

/// Counts the transactions that are open.
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

struct GateState {
    open_count: usize,
    /// Kept here because to ask LMDB means to read from the map, which may be moving.
    map_size_bytes: u64,
    is_closed: bool,
    /// The map is gone: nothing may be read any more.
    is_broken: bool,
}

/// One open transaction in the count of a [`Gate`].
pub(crate) struct Pass<'a>(&'a Gate);

/// A closed [`Gate`] that nobody is inside of; it opens when this is dropped.
pub(crate) struct Closed<'a> {
    state: MutexGuard<'a, GateState>,
    changed: &'a Condvar,
}

impl Gate {
    /// An open gate to a map of so many bytes.
    pub(crate) fn new(map_size_bytes: u64) -> Gate {
        let state = GateState { open_count: 0, map_size_bytes, is_closed: false, is_broken: false };
        Gate { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Lets a transaction in; waits while the gate is closed.
    pub(crate) fn enter(&self) -> Result<Pass<'_>, StoreError> {
        self.wait_until_open()?.open_count += 1;
        Ok(Pass(self))
    }

    /// Closes the gate and waits until nobody is inside; gives up after [`PATIENCE`], and opens it again.
    pub(crate) fn close(&self) -> Result<Closed<'_>, StoreError> {
        let mut state = self.wait_until_open()?;
        state.is_closed = true;
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| state.open_count > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let open_count = state.open_count;
        let closed = Closed { state, changed: &self.changed };
        if open_count > 0 {
            return Err(StoreError::Failed {
                detail: format!("the map cannot grow while transactions are open: {open_count} did not end"),
            });
        }
        Ok(closed)
    }

    /// Size of the map.
    pub(crate) fn map_size_bytes(&self) -> u64 {
        self.lock().map_size_bytes
    }

    fn wait_until_open(&self) -> Result<MutexGuard<'_, GateState>, StoreError> {
        let state = self.changed.wait_while(self.lock(), |state| state.is_closed);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if state.is_broken {
            return Err(StoreError::Failed { detail: "the map of the store is gone; open it anew".to_owned() });
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closed<'_> {
    /// Size of the map.
    pub(crate) fn map_size_bytes(&self) -> u64 {
        self.state.map_size_bytes
    }

    /// The map now has so many bytes.
    pub(crate) fn set_map_size_bytes(&mut self, size_bytes: u64) {
        self.state.map_size_bytes = size_bytes;
    }

    /// The map is gone: nobody is let in any more.
    pub(crate) fn break_down(&mut self) {
        self.state.is_broken = true;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.lock().open_count -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.state.is_closed = false;
        self.changed.notify_all();
    }
}

/// A transaction is a matter of milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_gate_closes_only_after_the_last_one_has_left_and_opens_for_those_who_wait() {
        let gate = Gate::new(1);
        let inside = gate.enter().unwrap();
        thread::scope(|scope| {
            let closing = scope.spawn(|| {
                let mut closed = gate.close().unwrap();
                assert_eq!(closed.state.open_count, 0);
                closed.set_map_size_bytes(2);
            });
            // From here on nobody enters before the map has moved.
            while !gate.lock().is_closed && !closing.is_finished() {
                thread::yield_now();
            }
            let entering = scope.spawn(|| {
                let _pass = gate.enter().unwrap();
                gate.map_size_bytes()
            });
            drop(inside);
            closing.join().unwrap();
            assert_eq!(entering.join().unwrap(), 2);
        });
    }

    #[test]
    fn nobody_enters_where_the_map_is_gone() {
        let gate = Gate::new(1);
        gate.close().unwrap().break_down();
        assert!(gate.enter().is_err());
        assert!(gate.close().is_err());
    }
}
