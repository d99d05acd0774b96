//! Settings of single groups: durable in the catalogue before they hold.

use anabranch_core::batch::Record;

use crate::broker::{Broker, Shared};
use crate::catalogue::{GroupConfigsRecord, Key, Version};
use crate::config::group::{GroupConfigs, apply, describe, overrides};
use crate::config::{Apply, ConfigEntry, ConfigOp};
use crate::error::TopicError;
use crate::tasks::to_the_end;

/// How many groups may have settings of their own.
const GROUPS_MAX: usize = 100_000;

impl Broker {
    /// The settings of the group `name`, with defaults, as DescribeConfigs shows them; the group need not exist.
    #[must_use]
    pub fn describe_group_configs(&self, name: &str) -> Vec<ConfigEntry> {
        let all = self.0.group_configs.read();
        describe(all.get(name).unwrap_or(&GroupConfigs::new()), &self.0.config)
    }

    /// The groups that have settings of their own, by name.
    #[must_use]
    pub fn groups_with_configs(&self) -> Vec<String> {
        self.0.group_configs.read().keys().cloned().collect()
    }

    /// Changes the settings of the group `name`, all or none of `ops`; the group need not exist.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn alter_group_configs(
        &self,
        name: &str,
        ops: &[ConfigOp],
        mode: Apply,
    ) -> Result<(), TopicError> {
        let (broker, name, ops) = (self.clone(), name.to_owned(), ops.to_vec());
        to_the_end(async move { broker.0.alter_group(&name, &ops, mode).await })
            .await
            .ok_or(TopicError::Closed)?
    }
}

impl Shared {
    async fn alter_group(&self, name: &str, ops: &[ConfigOp], mode: Apply) -> Result<(), TopicError> {
        let _turn = self.writer.turn().await?;
        if name.is_empty() {
            return Err(TopicError::InvalidRequest("the name of a group must not be empty"));
        }
        let (old, count) = {
            let all = self.group_configs.read();
            (all.get(name).cloned().unwrap_or_default(), all.len())
        };
        let new = apply(&old, ops, &self.config)?;
        if mode == Apply::ValidateOnly || new == old {
            return Ok(());
        }
        if old.is_empty() && count >= GROUPS_MAX {
            return Err(TopicError::InvalidRequest("100,000 groups have settings of their own: no more may"));
        }
        let key = Key::Group(name.to_owned());
        let record = match new.is_empty() {
            true => Record::tombstone(key.bytes()),
            false => key.record(&GroupConfigsRecord { version: Version, configs: new.clone() }),
        };
        self.write(record).await?;
        self.groups.set_overrides(name, overrides(&new, &self.config));
        let mut all = self.group_configs.write();
        match new.is_empty() {
            true => all.remove(name),
            false => all.insert(name.to_owned(), new),
        };
        Ok(())
    }
}
