//! Settings of Kafka's brokers that this one does not have, and why: whoever brings a `server.properties` is told of each
//! instead of finding out later that it was ignored.

const DOOR: &str = "it is a limit of the Kafka door; give it to the server, not to the broker";
const ADDRESS: &str =
    "where the server listens, and what it tells clients, are its own options: --kafka, --advertise";
const DATA: &str = "there is one data directory, an option of its own: --data DIR";
const SECURITY: &str = "there is no TLS, authentication or authorisation yet";
const ONE_NODE: &str = "there is one node, which replicates nothing and elects nobody";
const NO_CONTROLLER: &str = "there is no controller: the broker keeps the catalogue of topics itself";
const TRANSACTIONS: &str = "the topic of transactions has one partition, and what it acknowledges is durable";
const MEMBERSHIP: &str = "it is always so: a partition takes no records of a transaction that it is not in";
const TWO_PHASES: &str = "there are no transactions that another coordinator decides";
const GROUPS: &str = "there are no share groups and no streams groups yet";
const HERE: &str = "it is done while the heartbeat waits, and when topics change";
const TIERED: &str = "there is no remote storage";
const QUOTAS: &str = "there are no quotas yet";
const THREADS: &str = "threads, sockets and internal queues are not tuned one by one; memory is bounded by queued.max.request.bytes";
const METRICS: &str = "metrics are read at /metrics (--http), and need no setting";
const CLASSES: &str = "no code of others is loaded";
const OFFSETS: &str = "the topic of offsets has one partition, and what it acknowledges is durable";
const CLEANER: &str = "one task compacts, with buffers of its own and as fast as the disk allows";
const DELAY: &str = "a removed file goes when its last reader is done, without a delay";
const JITTER: &str = "the jitter is set in ms: log.roll.jitter.ms";
const SYNCS: &str =
    "what is durable is decided by log.flush.interval.messages and log.flush.interval.ms alone";
const ALWAYS: &str = "it is always so: topics can be deleted";

/// A name of Kafka's, or the beginning of several (ending in `.` or `*`), and why it is not here. The first that fits holds.
#[rustfmt::skip]
const REASONS: &[(&str, &str)] = &[
    ("connections.max.idle.ms", DOOR),
    ("fetch.max.bytes", DOOR),
    ("max.connections", DOOR),
    ("max.request.partition.size.limit", DOOR),
    ("socket.request.max.bytes", DOOR),
    ("advertised.listeners", ADDRESS),
    ("listeners", ADDRESS),
    ("early.start.listeners", ADDRESS),
    ("listener.security.protocol.map", ADDRESS),
    ("socket.listen.backlog.size", THREADS),
    ("log.dir", DATA),
    ("log.dirs", DATA),
    ("log.dir.failure.timeout.ms", DATA),
    ("cordoned.log.dirs", DATA),
    ("metadata.log.dir", DATA),
    ("sasl.*", SECURITY),
    ("ssl.*", SECURITY),
    ("security.*", SECURITY),
    ("delegation.token.*", SECURITY),
    ("authorizer.class.name", SECURITY),
    ("principal.builder.class", SECURITY),
    ("connection.failed.authentication.delay.ms", SECURITY),
    ("connections.max.reauth.ms", SECURITY),
    ("super.users", SECURITY),
    ("allow.everyone.if.no.acl.found", SECURITY),
    ("controller.quota.*", QUOTAS),
    ("controller.*", NO_CONTROLLER),
    ("metadata.*", NO_CONTROLLER),
    ("process.roles", NO_CONTROLLER),
    ("node.id", NO_CONTROLLER),
    ("broker.id", NO_CONTROLLER),
    ("broker.heartbeat.interval.ms", NO_CONTROLLER),
    ("broker.session.timeout.ms", NO_CONTROLLER),
    ("initial.broker.registration.timeout.ms", NO_CONTROLLER),
    ("zookeeper.*", NO_CONTROLLER),
    ("broker.rack", ONE_NODE),
    ("inter.broker.*", ONE_NODE),
    ("auto.leader.rebalance.enable", ONE_NODE),
    ("controlled.shutdown.*", ONE_NODE),
    ("default.replication.factor", ONE_NODE),
    ("leader.imbalance.*", ONE_NODE),
    ("min.insync.replicas", ONE_NODE),
    ("num.replica.*", ONE_NODE),
    ("replica.*", ONE_NODE),
    ("replication.quota.*", ONE_NODE),
    ("follower.*", ONE_NODE),
    ("alter.log.dirs.*", ONE_NODE),
    ("unclean.leader.election.enable", ONE_NODE),
    ("transaction.partition.verification.enable", MEMBERSHIP),
    ("transaction.two.phase.commit.enable", TWO_PHASES),
    ("transaction.state.log.*", TRANSACTIONS),
    ("group.consumer.*", HERE),
    ("group.share.*", GROUPS),
    ("group.streams.*", GROUPS),
    ("share.*", GROUPS),
    ("group.coordinator.*", THREADS),
    ("remote.*", TIERED),
    ("log.local.retention.*", TIERED),
    ("quota.window.*", QUOTAS),
    ("client.quota.callback.class", QUOTAS),
    ("max.connection.creation.rate", QUOTAS),
    ("max.connections.per.ip*", QUOTAS),
    ("background.threads", THREADS),
    ("num.io.threads", THREADS),
    ("num.network.threads", THREADS),
    ("num.recovery.threads.per.data.dir", THREADS),
    ("queued.max.requests", THREADS),
    ("request.timeout.ms", THREADS),
    ("socket.*", THREADS),
    ("fetch.purgatory.*", THREADS),
    ("producer.purgatory.*", THREADS),
    ("delete.records.purgatory.*", THREADS),
    ("kafka.metrics.*", METRICS),
    ("metric.reporters", METRICS),
    ("metrics.*", METRICS),
    ("auto.include.jmx.reporter", METRICS),
    ("telemetry.max.bytes", METRICS),
    ("alter.config.policy.class.name", CLASSES),
    ("create.topic.policy.class.name", CLASSES),
    ("config.providers", CLASSES),
    ("offsets.*", OFFSETS),
    ("log.cleaner.*", CLEANER),
    ("log.roll.jitter.hours", JITTER),
    ("log.segment.delete.delay.ms", DELAY),
    ("log.flush.*", SYNCS),
    ("log.preallocate", "segments grow as they are written"),
    ("compression.lz4.level", "lz4 is written at one level, the fast one"),
    ("delete.topic.enable", ALWAYS),
];

/// Why there is no setting `name`, if it is one of Kafka's.
pub(super) fn why_not(name: &str) -> Option<&'static str> {
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    };
    REASONS.iter().find(|(pattern, _)| fits(pattern)).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::super::broker::{BROKER_SETTINGS, BrokerConfig};
    use super::*;
    use crate::ConfigError;

    /// What a broker of Apache Kafka 4.3.1 answers to DescribeConfigs.
    const KAFKA_NAMES: &str = include_str!("kafka_names.txt");

    #[test]
    fn every_setting_of_kafka_is_here_or_refused_with_a_reason() {
        for name in KAFKA_NAMES.lines() {
            let is_here = BROKER_SETTINGS.iter().any(|setting| setting.name == name);
            assert!(is_here || why_not(name).is_some(), "{name} is neither here nor explained");
            let refused = BrokerConfig::default().set(name, "x");
            let expected = match is_here {
                true => matches!(refused, Err(ConfigError::Invalid { .. })),
                false => matches!(refused, Err(ConfigError::NotHere { .. })),
            };
            assert!(expected, "{name}: {refused:?}");
        }
        for (pattern, _) in REASONS.iter().filter(|(pattern, _)| !pattern.ends_with('*')) {
            let is_here = BROKER_SETTINGS.iter().any(|setting| setting.name == *pattern);
            assert!(!is_here, "{pattern} is here, and said not to be");
        }
        assert_eq!(why_not("num.partition"), None, "a slip is no setting of Kafka's");
    }
}
