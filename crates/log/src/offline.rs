//! A data directory that is looked at, and not changed.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_core::TopicPartition;
use anabranch_core::seam::{Disk, Lock};

use crate::journal::redo::Plan;
use crate::store::{FORMAT, TOPICS, check_format, directories, failed, lock, partition_directory};
use crate::verify::verify_partition;
use crate::{OpenError, PartitionReport};

/// A data directory that is looked at, and not changed. While this lives, nobody else can own it.
#[derive(Debug)]
pub struct Offline {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    journal: Plan,
    _lock: Box<dyn Lock>,
}

impl Offline {
    /// Takes the directory.
    ///
    /// # Errors
    /// [`OpenError`]: it is in use, of another format, or no data directory, or its journal is damaged.
    pub fn open(disk: Arc<dyn Disk>, root: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let root = root.into();
        check_format(disk.as_ref(), &root)?;
        let format = root.join(FORMAT);
        if !disk.exists(&format).map_err(failed("look for", &format))? {
            return Err(OpenError::NotADataDirectory(root));
        }
        let lock = lock(disk.as_ref(), &root)?;
        let journal = Plan::read(disk.as_ref(), &root)?;
        Ok(Self { disk, root, journal, _lock: lock })
    }

    /// Every partition for which there is a directory, by topic and number.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn partitions(&self) -> Result<Vec<TopicPartition>, OpenError> {
        let topics = self.root.join(TOPICS);
        let mut partitions = Vec::new();
        // The first start may have ended before it was there.
        if !self.disk.exists(&topics).map_err(failed("look for", &topics))? {
            return Ok(partitions);
        }
        for topic in directories(self.disk.as_ref(), &topics)? {
            let numbers = directories(self.disk.as_ref(), &topics.join(&topic))?;
            let numbers = numbers.iter().filter_map(|name| name.parse().ok());
            partitions.extend(numbers.map(|number: i32| TopicPartition::new(topic.clone(), number)));
        }
        partitions.sort();
        Ok(partitions)
    }

    /// Reads all of a partition: what is right, what is damaged, and what recovery would do.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn verify(&self, partition: &TopicPartition) -> Result<PartitionReport, OpenError> {
        let directory = partition_directory(&self.root, partition);
        verify_partition(self.disk.as_ref(), &directory, partition, &self.journal)
            .map_err(failed("read", &directory))
    }
}
