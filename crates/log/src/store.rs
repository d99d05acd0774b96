//! A data directory that one process owns.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_core::seam::{Clock, Disk};

use crate::{LogConfig, OpenError, PartitionLog};

/// How to open a [`Store`].
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The data directory.
    pub root: PathBuf,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How many appends may wait for the writer; whoever has one more waits.
    pub queue_appends_max: usize,
    /// `producer.id.expiration.ms`: a producer that has written nothing for so long is forgotten.
    pub producer_expiration_ms: i64,
}

/// A data directory that one process owns. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    _stub: Arc<()>,
}

#[allow(unused_variables)]
impl Store {
    /// Takes the directory (creating it), and starts its writer. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed then.
    pub fn open(config: StoreConfig) -> Result<Self, OpenError> {
        unimplemented!()
    }

    /// The topics' names for which there are directories, whether or not anybody knows them.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn topic_directories(&self) -> Result<Vec<String>, OpenError> {
        unimplemented!()
    }

    /// Opens the log of a partition of `topic`, recovering it, or creates it durably when there is none. A damaged log
    /// opens as stopped ([`crate::LogStatus`]), so that others go on. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError::Io`] when it cannot even be looked at or created.
    pub fn open_partition(
        &self,
        topic: &str,
        partition: i32,
        config: LogConfig,
    ) -> Result<PartitionLog, OpenError> {
        unimplemented!()
    }

    /// Removes a topic's directory with all its partitions. Logs of it must have been closed. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn remove_topic(&self, topic: &str) -> Result<(), OpenError> {
        unimplemented!()
    }

    /// Closes the partition for good: waits until its queued appends are done, and refuses further ones.
    pub async fn close_partition(&self, log: &PartitionLog) {
        unimplemented!()
    }

    /// Writes and syncs everything, stops the writer, and gives the directory up. Every later append fails.
    pub async fn close(&self) {
        unimplemented!()
    }
}
