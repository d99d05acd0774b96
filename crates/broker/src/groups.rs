//! Groups, for many callers at a time.
use std::sync::Arc;

use anabranch_core::seam::{Clock, Random};

use crate::config::broker::BrokerConfig;
use crate::error::BrokerError;
use crate::journal::Journal;

/// The groups.
#[derive(Debug)]
pub struct GroupService;

#[allow(missing_docs, clippy::unused_async, clippy::needless_pass_by_value)]
impl GroupService {
    pub(crate) async fn open(
        _journal: Journal,
        _config: &BrokerConfig,
        _clock: Arc<dyn Clock>,
        _random: Arc<dyn Random>,
    ) -> Result<Self, BrokerError> {
        Ok(Self)
    }
    pub(crate) async fn close(&self) {}
    pub(crate) async fn topic_deleted(&self, _name: &str) {}
}
