//! A topic's settings on both sides. While it is copied the target forgets nothing and changes nothing; what the source has set
//! comes when the move is decided.

use anabranch_core::engine::{Admin, Capability, Engine, EngineError, Ensured, TopicSpec};

use crate::error::MoveError;

/// A topic that is to be moved.
#[derive(Debug, Clone)]
pub(crate) struct PlannedTopic {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    /// What is set on it in the source.
    pub(crate) configs: Vec<(String, String)>,
}

impl PlannedTopic {
    pub(crate) async fn of(source: &dyn Admin, name: &str) -> Result<Self, EngineError> {
        let found = source.topic(name).await?;
        let configs = source.topic_configs(name).await?.into_iter();
        let own =
            configs.filter(|config| config.is_own).filter_map(|config| Some((config.name, config.value?)));
        Ok(Self { name: found.name, partitions: found.partitions.len() as i32, configs: own.collect() })
    }

    fn config(&self, name: &str) -> Option<&str> {
        self.configs.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    fn is_compacted(&self) -> bool {
        self.config("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
    }

    /// Creates the topic in the target, or finds it there; tells whether it was.
    pub(crate) async fn create(&self, target: &dyn Engine) -> Result<bool, MoveError> {
        let mut spec = TopicSpec::new(&self.name, self.partitions);
        for (name, value) in KEPT {
            spec = spec.config(*name, *value);
        }
        if let Some(bytes) = self.config("max.message.bytes") {
            spec = spec.config("max.message.bytes", bytes);
        }
        if self.is_thinned_in(target) {
            spec = spec.config("cleanup.policy", "compact");
        }
        match target.ensure_topic(&spec).await.map_err(MoveError::Target)? {
            Ensured::Created => Ok(false),
            Ensured::Existed => Ok(true),
        }
    }

    /// Whether the target compacts the topic from the beginning, since it cannot begin with that later.
    pub(crate) fn is_thinned_in(&self, target: &dyn Engine) -> bool {
        self.is_compacted() && !target.description().has(Capability::Transactions)
    }

    /// Gives the topic in the target what the source has set. What the target does not take is told, with its reason.
    pub(crate) async fn finish(&self, target: &dyn Engine) -> Result<Vec<(String, String)>, EngineError> {
        let mut left = Vec::new();
        let kept = KEPT.iter().filter(|(name, _)| self.config(name).is_none());
        let taken_back = kept.map(|(name, _)| ((*name).to_owned(), None));
        let set = self.configs.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
        for change in taken_back.chain(set) {
            match target.admin().set_topic_configs(&self.name, std::slice::from_ref(&change)).await {
                Ok(()) => {}
                Err(EngineError::Refused { reason, .. }) => left.push((change.0, reason)),
                Err(EngineError::Unsuitable(unsuitable)) => left.push((change.0, unsuitable.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }
}

/// What holds in the target until the move is decided.
const KEPT: &[(&str, &str)] =
    &[("retention.ms", "-1"), ("retention.bytes", "-1"), ("cleanup.policy", "delete")];
