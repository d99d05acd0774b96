//! More partitions than open files.

use std::sync::Arc;

use anabranch_core::seam::{Disk, RealDisk};
use anabranch_log::{Absent, Ack};

use crate::support::{batch, config, expected, open_on, values};

/// Ten thousand partitions took twenty thousand handles: a process may often have a thousand.
#[tokio::test]
async fn partitions_need_no_more_handles_than_there_may_be() {
    const PARTITIONS: i32 = 200;
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let store = open_on(disk, dir.path());
        let small = anabranch_log::LogConfig { segment_bytes: 200, ..config() };
        let logs: Vec<_> = (0..PARTITIONS)
            .map(|number| store.open_partition("t", number, small, Absent::Create).unwrap())
            .collect();
        let mut pending = Vec::new();
        for log in &logs {
            pending.push(log.submit(batch(round * 3..round * 3 + 3), Ack::Durable).await.unwrap());
        }
        for pending in pending {
            pending.answer().await.unwrap();
        }
        for log in logs.iter().rev() {
            assert_eq!(values(log), expected(0..round * 3 + 3), "{}", log.id());
        }
        let counts = store.file_counts();
        assert_eq!(counts.open_max, 8);
        assert!(counts.open <= counts.open_max, "{counts:?}");
        assert!(counts.reopened > 0);
        store.close().await;
    }
}
