//! The settings of single groups in the consumer protocol: [`GROUP_SETTINGS`] is the table. They are kept in the catalogue, also
//! for groups that do not exist yet.

use std::collections::BTreeMap;
use std::time::Duration;

use super::broker::BrokerConfig;
use super::{ConfigEntry, ConfigKind, ConfigOp, ConfigSource, Range};
use crate::error::ConfigError;
use crate::group::config::{ConsumerConfig, ConsumerOverrides, Migration};

/// What was set on one group, checked and in normal form.
pub type GroupConfigs = BTreeMap<String, String>;

/// One setting of a group, in ms.
#[derive(Debug, Clone, Copy)]
pub struct GroupSetting {
    /// Kafka's name.
    pub name: &'static str,
    /// The broker's setting that is its default.
    pub default: &'static str,
    /// The broker's settings that bound it.
    pub bounds: [&'static str; 2],
    /// What it does here.
    pub documentation: &'static str,
}

const ASSIGNMENT: &str = "consumer.assignment.interval.ms";
const HEARTBEAT: &str = "consumer.heartbeat.interval.ms";
const SESSION: &str = "consumer.session.timeout.ms";

/// Every setting of a group, by name.
pub const GROUP_SETTINGS: &[GroupSetting] = &[
    GroupSetting {
        name: ASSIGNMENT,
        default: "group.consumer.assignment.interval.ms",
        bounds: ["group.consumer.min.assignment.interval.ms", "group.consumer.max.assignment.interval.ms"],
        documentation: "How long the assignor rests after it has run.",
    },
    GroupSetting {
        name: HEARTBEAT,
        default: "group.consumer.heartbeat.interval.ms",
        bounds: ["group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"],
        documentation: "How often members are told to send heartbeats.",
    },
    GroupSetting {
        name: SESSION,
        default: "group.consumer.session.timeout.ms",
        bounds: ["group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"],
        documentation: "How long a member may be silent.",
    },
];

/// Applies `ops` to `configs`, all or none.
pub(crate) fn apply(
    configs: &GroupConfigs,
    ops: &[ConfigOp],
    broker: &BrokerConfig,
) -> Result<GroupConfigs, ConfigError> {
    let mut changed = configs.clone();
    let set = |changed: &mut GroupConfigs, name: &str, value: &str| {
        let setting = known(name)?;
        changed.insert(setting.name.to_owned(), range(setting, broker).check(name, value)?);
        Ok::<_, ConfigError>(())
    };
    for op in ops {
        match op {
            ConfigOp::Set(name, value) => set(&mut changed, name, value)?,
            ConfigOp::Delete(name) => {
                changed.remove(known(name)?.name);
            }
            ConfigOp::Append(name, value) | ConfigOp::Subtract(name, value) => {
                let name = known(name)?.name.to_owned();
                let reason = "it is not a list, so nothing can be added or taken away".to_owned();
                return Err(ConfigError::Invalid { name, value: value.clone(), reason });
            }
            ConfigOp::ReplaceAll(all) => {
                changed.clear();
                for (name, value) in all {
                    set(&mut changed, name, value)?;
                }
            }
        }
    }
    let ms = |name: &str| number(name, &changed, broker);
    if ms(SESSION) <= ms(HEARTBEAT) {
        return Err(ConfigError::Invalid {
            name: SESSION.to_owned(),
            value: ms(SESSION).to_string(),
            reason: format!("it must be greater than {HEARTBEAT}"),
        });
    }
    Ok(changed)
}

/// The settings as DescribeConfigs shows them.
pub(crate) fn describe(configs: &GroupConfigs, broker: &BrokerConfig) -> Vec<ConfigEntry> {
    let entry = |setting: &GroupSetting| {
        let own = configs.get(setting.name);
        let (default, default_source) = broker.get(setting.default).expect("the table names broker settings");
        let synonyms = own.map(|own| (setting.name, Some(own.clone()), ConfigSource::Group));
        ConfigEntry {
            name: setting.name,
            value: Some(own.cloned().unwrap_or(default)),
            source: if own.is_some() { ConfigSource::Group } else { default_source },
            read_only: false,
            sensitive: false,
            kind: ConfigKind::Int,
            documentation: setting.documentation,
            synonyms: synonyms.into_iter().chain(broker.synonyms(setting.default)).collect(),
        }
    };
    GROUP_SETTINGS.iter().map(entry).collect()
}

/// What the coordinator obeys. The broker's bounds may have changed since the settings were given: they hold.
pub(crate) fn overrides(configs: &GroupConfigs, broker: &BrokerConfig) -> ConsumerOverrides {
    let own = |name: &str| {
        let [min, max] =
            known(name).expect("it stands in the table").bounds.map(|bound| broker.number(bound));
        let value: i64 = configs.get(name)?.parse().expect("the value was checked when it was set");
        Some(Duration::from_millis(value.clamp(min, max.max(min)).unsigned_abs()))
    };
    ConsumerOverrides {
        session_timeout: own(SESSION),
        heartbeat_interval: own(HEARTBEAT),
        assignment_interval: own(ASSIGNMENT),
    }
}

/// What the broker's settings come to.
///
/// # Errors
/// [`ConfigError`] when one of them is out of the bounds that the others set, as in Kafka.
pub(crate) fn consumer_config(broker: &BrokerConfig) -> Result<ConsumerConfig, ConfigError> {
    for setting in GROUP_SETTINGS {
        let [min, max] = setting.bounds.map(|bound| broker.number(bound));
        let value = broker.number(setting.default);
        if value < min || value > max {
            return Err(ConfigError::Invalid {
                name: setting.default.to_owned(),
                value: value.to_string(),
                reason: format!(
                    "it must be from {} to {}: {min} to {max}",
                    setting.bounds[0], setting.bounds[1]
                ),
            });
        }
    }
    let text = |name: &str| broker.get(name).expect("the name stands in the table").0;
    let ms = |name: &str| Duration::from_millis(broker.number(name).unsigned_abs());
    let assignors = text("group.consumer.assignors");
    let protocols = text("group.coordinator.rebalance.protocols");
    let migration = text("group.consumer.migration.policy");
    Ok(ConsumerConfig {
        is_enabled: super::list(&protocols).any(|protocol| protocol == "consumer"),
        session_timeout: ms("group.consumer.session.timeout.ms"),
        heartbeat_interval: ms("group.consumer.heartbeat.interval.ms"),
        assignment_interval: ms("group.consumer.assignment.interval.ms"),
        members_max: broker.number("group.consumer.max.size") as usize,
        assignors: super::list(&assignors).filter_map(crate::group::Assignor::of).collect(),
        migration: Migration::of(&migration).expect("the value was checked when it was set"),
    })
}

fn known(name: &str) -> Result<&'static GroupSetting, ConfigError> {
    let found = GROUP_SETTINGS.iter().find(|setting| setting.name == name);
    found.ok_or_else(|| ConfigError::Unknown(name.to_owned()))
}

fn range(setting: &GroupSetting, broker: &BrokerConfig) -> Range {
    let [min, max] = setting.bounds.map(|bound| broker.number(bound));
    Range::Between(min, max)
}

fn number(name: &str, configs: &GroupConfigs, broker: &BrokerConfig) -> i64 {
    let setting = known(name).expect("it stands in the table");
    let own = configs.get(name).map(|own| own.parse().expect("the value was checked when it was set"));
    own.unwrap_or_else(|| broker.number(setting.default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> ConfigOp {
        ConfigOp::Set(name.into(), value.into())
    }

    #[test]
    fn a_group_is_set_within_the_brokers_bounds() {
        let broker = BrokerConfig::default();
        let none = GroupConfigs::new();
        let changed = apply(&none, &[set(SESSION, "50000"), set(HEARTBEAT, "6000")], &broker).unwrap();
        let shown = describe(&changed, &broker);
        assert_eq!(shown[2].value.as_deref(), Some("50000"));
        assert_eq!((shown[2].source, shown[0].source), (ConfigSource::Group, ConfigSource::Default));
        let obeyed = overrides(&changed, &broker);
        assert_eq!(obeyed.session_timeout, Some(Duration::from_secs(50)));
        assert_eq!(obeyed.assignment_interval, None);
        for (name, value) in [(SESSION, "44999"), (SESSION, "60001"), (SESSION, "x"), ("retention.ms", "1")] {
            assert!(apply(&none, &[set(name, value)], &broker).is_err(), "{name}={value}");
        }
        let back = apply(&changed, &[ConfigOp::Delete(SESSION.into())], &broker).unwrap();
        assert_eq!(back.len(), 1);
        // The bounds have changed since.
        let narrow = broker.with("group.consumer.max.session.timeout.ms", "46000").unwrap();
        assert_eq!(overrides(&changed, &narrow).session_timeout, Some(Duration::from_secs(46)));
    }

    #[test]
    fn a_session_is_longer_than_a_heartbeat() {
        let broker = BrokerConfig::default()
            .with("group.consumer.max.heartbeat.interval.ms", "50000")
            .and_then(|config| config.with("group.consumer.min.session.timeout.ms", "1000"))
            .unwrap();
        let none = GroupConfigs::new();
        assert!(apply(&none, &[set(HEARTBEAT, "45000")], &broker).is_err());
        assert!(apply(&none, &[set(HEARTBEAT, "44000")], &broker).is_ok());
    }

    #[test]
    fn the_brokers_own_settings_keep_within_bounds() {
        let config = consumer_config(&BrokerConfig::default()).unwrap();
        assert_eq!(config, ConsumerConfig::default());
        let long = BrokerConfig::default().with("group.consumer.session.timeout.ms", "60001").unwrap();
        assert!(consumer_config(&long).unwrap_err().to_string().contains("45000 to 60000"));
        let classic =
            BrokerConfig::default().with("group.coordinator.rebalance.protocols", "classic").unwrap();
        assert!(!consumer_config(&classic).unwrap().is_enabled);
    }
}
