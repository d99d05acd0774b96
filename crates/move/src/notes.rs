//! What a move notes on the disk, so that it need not read everything again when it was interrupted. Without its notes it
//! goes on from what the target holds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::TopicPartition;
use anabranch_core::engine::Position;
use anabranch_core::seam::Disk;
use serde::{Deserialize, Serialize};

use crate::error::MoveError;
use crate::lane::Matched;
use crate::report::MovedGroup;

/// `move.json` in the directory of the move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notes {
    version: u32,
    /// Whose they are.
    pub(crate) id: String,
    /// It was decided that the target is the truth.
    pub(crate) is_decided: bool,
    /// By partition.
    pub(crate) matched: Vec<Matched>,
    /// Groups as they were written, by name; what stands here before it is decided is to be written again.
    pub(crate) groups: Vec<GroupNote>,
    /// When they were written last.
    #[serde(skip)]
    written: Option<Instant>,
}

const VERSION: u32 = 1;
const FILE: &str = "move.json";

impl Notes {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            is_decided: false,
            matched: Vec::new(),
            groups: Vec::new(),
            written: None,
        }
    }

    /// Forgets what is not so; tells whether there was any.
    pub(crate) fn retain(&mut self, is_so: impl Fn(&Matched) -> bool) -> bool {
        let before = self.matched.len();
        self.matched.retain(is_so);
        self.matched.len() < before
    }

    pub(crate) fn set_groups(&mut self, groups: &[MovedGroup]) {
        let note = |group: &MovedGroup| {
            let stands = group
                .positions
                .iter()
                .map(|(at, here, there)| (at.topic.clone(), at.partition, here.0, there.0));
            (group.name.clone(), stands.collect())
        };
        self.groups = groups.iter().map(note).collect();
    }

    pub(crate) fn moved_groups(&self) -> Vec<MovedGroup> {
        let group = |(name, stands): &GroupNote| {
            let positions = stands.iter().map(|(topic, partition, here, there)| {
                (TopicPartition::new(topic, *partition), Position(*here), Position(*there))
            });
            MovedGroup { name: name.clone(), positions: positions.collect() }
        };
        self.groups.iter().map(group).collect()
    }

    /// Whether they are older than that.
    pub(crate) fn is_due(&self, interval: Duration) -> bool {
        self.written.is_none_or(|written| written.elapsed() >= interval)
    }
}

/// A group: its name; by topic and partition where it stands in the source, and in the target.
type GroupNote = (String, Vec<(String, i32, u64, u64)>);

/// Where the notes are.
#[derive(Debug, Clone)]
pub(crate) struct Notebook {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Notebook {
    pub(crate) fn new(disk: Arc<dyn Disk>, directory: &Path) -> Self {
        Self { disk, path: directory.join(FILE) }
    }

    /// The notes of the move `id`; new ones if there are none. Those of another move are refused.
    pub(crate) fn read(&self, id: &str) -> Result<Notes, MoveError> {
        let blame = |error: io::Error| self.blame(error.to_string());
        if !self.disk.exists(&self.path).map_err(blame)? {
            if let Some(directory) = self.path.parent() {
                self.disk.create_dir_all(directory).map_err(blame)?;
            }
            return Ok(Notes::new(id));
        }
        let bytes = self.disk.read(&self.path).map_err(blame)?;
        let notes: Notes = serde_json::from_slice(&bytes).map_err(|error| self.blame(error.to_string()))?;
        match (notes.version, notes.id == id) {
            (VERSION, true) => Ok(notes),
            (VERSION, false) => {
                Err(self.blame("it belongs to a move between other engines: name another directory".into()))
            }
            (newer, _) => {
                Err(self.blame(format!("it has version {newer}, and this program reads {VERSION}")))
            }
        }
    }

    /// Durable when it returns.
    pub(crate) fn write(&self, notes: &mut Notes) -> Result<(), MoveError> {
        notes.written = Some(Instant::now());
        let bytes = serde_json::to_vec(notes).expect("notes are plain data");
        self.disk.replace(&self.path, &bytes).map_err(|error| self.blame(error.to_string()))
    }

    fn blame(&self, reason: String) -> MoveError {
        MoveError::Notes { path: self.path.display().to_string(), reason }
    }
}
