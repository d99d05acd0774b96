//! The write buffer: what changed since the last commit.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Changes, Store};
use crate::FlowError;
use crate::window::Window;

/// What the world has seen of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Nothing.
    Open,
    /// An early result.
    Shown,
    /// The result at its end. What comes later corrects it.
    Fired,
}

/// A window of one key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry<S> {
    pub(crate) stage: Stage,
    pub(crate) state: S,
}

/// A window that may have changed, and what it is now, if anything.
struct Slot<S> {
    entry: Option<Entry<S>>,
    /// Whether the store knows the window.
    stored: bool,
}

/// The windows and sessions that changed since the last commit, in front of all that are stored.
pub(crate) struct Table<S> {
    pub(crate) store: Store,
    slots: HashMap<Vec<u8>, Slot<S>>,
    /// The sessions of every key that changed; none is the same as not there.
    sessions: HashMap<Vec<u8>, Vec<Window>>,
}

impl<S: Serialize + DeserializeOwned> Table<S> {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, slots: HashMap::new(), sessions: HashMap::new() }
    }

    /// How many windows and keys it holds in memory.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() + self.sessions.len()
    }

    /// The window, to be changed; `None` when it is new.
    pub(crate) fn window(&mut self, window_key: &[u8]) -> Result<&mut Option<Entry<S>>, FlowError> {
        // Asked twice, since an entry of the map would need an owned key for every record.
        if !self.slots.contains_key(window_key) {
            let entry: Option<Entry<S>> = self.store.window(window_key)?;
            self.slots.insert(window_key.to_vec(), Slot { stored: entry.is_some(), entry });
        }
        let slot = self.slots.get_mut(window_key).expect("it was put there just now");
        Ok(&mut slot.entry)
    }

    /// Takes the window out.
    pub(crate) fn remove(&mut self, window_key: &[u8]) -> Result<Option<Entry<S>>, FlowError> {
        let entry = self.window(window_key)?.take();
        if self.slots.get(window_key).is_some_and(|slot| !slot.stored) {
            self.slots.remove(window_key);
        }
        Ok(entry)
    }

    /// The sessions of a key, to be changed.
    pub(crate) fn sessions(&mut self, key: &[u8]) -> Result<&mut Vec<Window>, FlowError> {
        if !self.sessions.contains_key(key) {
            let sessions = self.store.sessions(key)?.unwrap_or_default();
            self.sessions.insert(key.to_vec(), sessions);
        }
        Ok(self.sessions.get_mut(key).expect("it was put there just now"))
    }

    /// The windows that changed, by key.
    pub(crate) fn changed(&mut self) -> Vec<(&[u8], &mut Entry<S>)> {
        let mut changed: Vec<_> = self
            .slots
            .iter_mut()
            .filter_map(|(key, slot)| slot.entry.as_mut().map(|entry| (key.as_slice(), entry)))
            .collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        changed
    }

    /// Writes everything that changed into `changes`, and forgets it.
    pub(crate) fn flush(&mut self, changes: &mut Changes) -> Result<(), FlowError> {
        for (window_key, Slot { entry, .. }) in sorted(self.slots.drain()) {
            self.store.set_window(changes, &window_key, entry.as_ref())?;
        }
        for (key, sessions) in sorted(self.sessions.drain()) {
            self.store.set_sessions(changes, &key, (!sessions.is_empty()).then_some(&sessions))?;
        }
        Ok(())
    }
}

/// By key, so that the same input makes the same changelog.
fn sorted<V>(entries: impl Iterator<Item = (Vec<u8>, V)>) -> Vec<(Vec<u8>, V)> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    entries
}
