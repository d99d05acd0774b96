//! Transactions, each with one call.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::batch::Record;
use anabranch_core::engine::{Appended, EngineError, GroupPositions, Payload, TransactionalProducer};
use anabranch_core::{Offset, TopicPartition};
use async_trait::async_trait;
use futures::future::try_join_all;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer;

use crate::append::Appender;
use crate::engine::{Cluster, blocking};
use crate::error::{blame, failed};
use crate::watch::Watch;

/// The one producer of a transactional id.
#[derive(Debug)]
pub(crate) struct KafkaProducer {
    cluster: Arc<Cluster>,
    /// Locked by one commit at a time, which goes on when its future is dropped.
    session: Arc<Mutex<Session>>,
}

struct Session {
    id: String,
    appender: Appender,
    patience: Duration,
    cluster: Arc<Cluster>,
    /// The group whose positions were stored last, and a consumer of its name, which joins nothing.
    group: Option<(String, BaseConsumer<Watch>)>,
    /// Why it cannot go on.
    end: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    Fenced,
    Failed(String),
}

impl KafkaProducer {
    pub(crate) async fn open(
        cluster: Arc<Cluster>,
        id: &str,
        timeout: Duration,
    ) -> Result<Self, EngineError> {
        let refused = |reason: String| EngineError::Refused { topic: id.to_owned(), reason };
        if id.is_empty() {
            return Err(refused("a transactional id is not empty".into()));
        }
        let patience = cluster.settings.delivery_max();
        // What is not acknowledged is aborted here before the coordinator does it, which would look like another producer.
        let acknowledged_within = patience.min(timeout * 4 / 5);
        let mut config = cluster.settings.client();
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", timeout.as_millis().to_string())
            .set("message.timeout.ms", acknowledged_within.as_millis().max(1).to_string())
            .set("message.max.bytes", cluster.message_bytes_max())
            // A transaction that begins while the one before is being marked is told to come again.
            .set("retry.backoff.ms", "5")
            .set("linger.ms", "1");
        // The library refuses one that is longer than the transaction.
        let socket_ms = config.get("socket.timeout.ms").and_then(|ms| ms.parse().ok());
        if socket_ms.is_some_and(|ms: u128| ms > timeout.as_millis()) {
            config.set("socket.timeout.ms", timeout.as_millis().max(10).to_string());
        }
        let session = Session {
            appender: Appender::new(&config).map_err(|error| refused(error.to_string()))?,
            id: id.to_owned(),
            patience,
            cluster: Arc::clone(&cluster),
            group: None,
            end: None,
        };
        let session = blocking(move || session.begin()).await??;
        Ok(Self { cluster, session: Arc::new(Mutex::new(session)) })
    }
}

#[async_trait]
impl TransactionalProducer for KafkaProducer {
    async fn commit(
        &mut self,
        appends: Vec<(TopicPartition, Payload)>,
        positions: Option<GroupPositions>,
    ) -> Result<Vec<Appended>, EngineError> {
        self.cluster.check_open()?;
        let mut records = Vec::with_capacity(appends.len());
        for (to, what) in appends {
            let of_it = self.cluster.records(&to, what)?;
            self.cluster.check_partition(&to).await?;
            records.push((to, of_it));
        }
        if records.is_empty() && positions.is_none() {
            return Ok(Vec::new());
        }
        let (session, runtime) = (Arc::clone(&self.session), tokio::runtime::Handle::current());
        blocking(move || session.lock().commit(records, positions, &runtime)).await?
    }
}

impl Session {
    /// Fences older producers of the id, and ends what they had open.
    fn begin(mut self) -> Result<Self, EngineError> {
        match self.again(|session, left| session.producer().init_transactions(left)) {
            Ok(()) => Ok(self),
            Err(error) => Err(self.blame(&error)),
        }
    }

    fn producer(&self) -> &impl Producer<crate::append::Deliveries> {
        self.appender.producer()
    }

    fn commit(
        &mut self,
        records: Vec<(TopicPartition, Vec<Record>)>,
        positions: Option<GroupPositions>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Vec<Appended>, EngineError> {
        match &self.end {
            Some(End::Fenced) => return Err(EngineError::ProducerFenced { id: self.id.clone() }),
            Some(End::Failed(reason)) => return Err(failed(reason.clone())),
            None => {}
        }
        self.producer().begin_transaction().map_err(|error| self.blame(&error))?;
        let mut sent = Vec::with_capacity(records.len());
        for (to, records) in records {
            match self.appender.send_blocking(&to, &records, self.cluster.settings.request_max()) {
                Ok(waiting) => sent.push((to, waiting)),
                Err(error) => return Err(self.abort(error)),
            }
        }
        if let Some(positions) = positions
            && let Err(error) = self.store(positions)
        {
            return Err(self.give_up(&error));
        }
        // The library would look for the acknowledgements every 100 ms only. Where one says no, so does the commit, and what was not
        // sent by then is not sent any more: it is not waited for.
        let appended = sent.into_iter().map(|(to, waiting)| async move { waiting.appended(&to).await });
        let appended = runtime.block_on(try_join_all(appended));
        if let Err(error) = self.again(|session, left| session.producer().commit_transaction(left)) {
            let ended = self.give_up(&error);
            // What the broker does not take, it does not take when it is done again.
            let is_refusal = |error: &EngineError| matches!(error, EngineError::Refused { .. });
            let refusal = appended.err().filter(is_refusal);
            return Err(match ended {
                EngineError::Aborted { .. } => refusal.unwrap_or(ended),
                ended => ended,
            });
        }
        appended
    }

    fn store(&mut self, GroupPositions { group, positions }: GroupPositions) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (at, next) in positions {
            list.add_partition_offset(
                &at.topic,
                at.partition,
                rdkafka::Offset::Offset(Offset::from(next).0),
            )?;
        }
        if self.group.as_ref().is_none_or(|(name, _)| *name != group) {
            let mut config = self.cluster.settings.client();
            config.set("group.id", &group).set("enable.auto.commit", "false");
            self.group = Some((group, config.create_with_context(Watch::default())?));
        }
        let consumer = &self.group.as_ref().expect("it was put there").1;
        let metadata = consumer.group_metadata().expect("it names a group");
        self.again(|session, left| session.producer().send_offsets_to_transaction(&list, &metadata, left))
    }

    /// Tries as long as that may help.
    fn again(&self, what: impl Fn(&Self, Duration) -> KafkaResult<()>) -> KafkaResult<()> {
        let until = Instant::now() + self.patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match what(self, left) {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => {}
                other => return other,
            }
        }
    }

    /// What to do about a transaction that did not come through.
    fn give_up(&mut self, error: &KafkaError) -> EngineError {
        match error {
            KafkaError::Transaction(why) if why.txn_requires_abort() => {
                let (id, reason) = (self.id.clone(), error.to_string());
                self.abort(match error.rdkafka_error_code() {
                    // It is not taken when it is done again.
                    Some(Code::PolicyViolation) => EngineError::Refused { topic: id, reason },
                    _ => EngineError::Aborted { id, reason },
                })
            }
            // The library cannot go on from there.
            error => self.unknown(error),
        }
    }

    /// Aborts, so that the next transaction can begin; the answer is `why`.
    fn abort(&mut self, why: EngineError) -> EngineError {
        match self.again(|session, left| session.producer().abort_transaction(left)) {
            Ok(()) => why,
            Err(error) => self.unknown(&error),
        }
    }

    /// Nothing goes on after `error`, and whether the transaction was committed is not known: who is told that the cluster is
    /// away would take that for nothing done, and do it again.
    fn unknown(&mut self, error: &KafkaError) -> EngineError {
        match self.blame(error) {
            EngineError::Away { reason, .. } => failed(reason),
            other => other,
        }
    }

    /// Nothing goes on after `error`.
    fn blame(&mut self, error: &KafkaError) -> EngineError {
        let fatal = self.producer().client().fatal_error().map(|(code, _)| code);
        match fatal.or(error.rdkafka_error_code()) {
            Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => {
                self.end = Some(End::Fenced);
                EngineError::ProducerFenced { id: self.id.clone() }
            }
            _ => {
                self.end = Some(End::Failed(format!("the producer of {:?} ended before: {error}", self.id)));
                match blame(&TopicPartition::new(&self.id, 0), error) {
                    EngineError::NotFound(_) => failed(error.to_string()),
                    other => other,
                }
            }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("end", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::engine::Engine;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::{KafkaEngine, KafkaSettings};

    /// The coordinator is asked to commit, and no answer comes for as long as a producer has patience: it may have committed. Told as a
    /// cluster that is away, that was taken for nothing done, and done again.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_without_an_answer_is_not_told_as_nothing_done() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("t", 1, 1).unwrap();
        let settings = KafkaSettings::new(mock.bootstrap_servers()).delivery_timeout(Duration::from_secs(2));
        let engine = KafkaEngine::open(settings, &[]).await.unwrap();
        let transactions = engine.transactions().unwrap();
        let mut producer = transactions.producer("id", Duration::from_secs(5)).await.unwrap();
        let at = TopicPartition::new("t", 0);
        let record = || vec![(at.clone(), Record::keyless("x").into())];
        producer.commit(record(), None).await.unwrap();
        let answers = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 5000];
        mock.request_errors(RDKafkaApiKey::EndTxn, &answers);
        let committed = producer.commit(record(), None).await;
        assert!(matches!(committed, Err(EngineError::Failed(_))), "{committed:?}");
    }
}
