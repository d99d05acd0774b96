//! The broker for programs without a runtime: the same calls, each of which waits.
//!
//! A [`Broker`] brings a runtime of its own. Do not use it, or drop it, inside of another runtime: there is
//! [`crate::Broker`] for that.

use std::path::Path;
use std::sync::Arc;

use anabranch_core::batch::Record;
use anabranch_core::engine::{EngineError, Place};
use anabranch_core::{Offset, TopicPartition};
use anabranch_log::Ack;
use tokio::runtime::{Builder, Runtime};

use crate::broker::BrokerBuilder;
use crate::error::{BrokerError, ProduceError, TopicError, TransactionalError};
use crate::{Appended, Apply, Consumed, NewTopic, Produced, Topic, TransactionOptions};

/// The threads that wait for the disk's answers and for timeouts: there is little to do for them.
const WORKER_THREADS: usize = 1;

/// See [`crate::Broker`]. Cheap to clone; all clones are the same broker.
///
/// ```
/// use anabranch_broker::{Apply, NewTopic, Place, Record, blocking::Broker};
///
/// let dir = tempfile::tempdir()?;
/// let broker = Broker::open(dir.path())?;
/// broker.create_topic(NewTopic::new("orders"), Apply::Now)?;
/// broker.append("orders", Record::new("order-1", "two cups"))?;
/// for order in broker.tail("orders", Place::Earliest)?.take(1) {
///     println!("{:?}", order?.record.value);
/// }
/// broker.close();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Broker {
    broker: crate::Broker,
    runtime: Arc<Runtime>,
}

impl Broker {
    /// Opens the data directory `path` with default settings, creating it when there is none.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, BrokerError> {
        Self::open_with(crate::Broker::builder().data(path))
    }

    /// Opens what `builder` says.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn open_with(builder: BrokerBuilder) -> Result<Self, BrokerError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("anabranch")
            .enable_time()
            .build()
            .map_err(BrokerError::Runtime)?;
        let broker = runtime.block_on(builder.open())?;
        Ok(Self { broker, runtime: Arc::new(runtime) })
    }

    /// The broker behind this; for what has no call here, with [`Broker::wait`].
    #[must_use]
    pub fn broker(&self) -> &crate::Broker {
        &self.broker
    }

    /// Waits for any call of the asynchronous face.
    pub fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// See [`crate::Broker::close`].
    pub fn close(&self) {
        self.wait(self.broker.close());
    }

    /// See [`crate::Broker::create_topic`].
    ///
    /// # Errors
    /// [`TopicError`].
    pub fn create_topic(&self, new: NewTopic, mode: Apply) -> Result<Arc<Topic>, TopicError> {
        self.wait(self.broker.create_topic(new, mode))
    }

    /// Appends one record to `topic`; it survives power loss when this returns. See [`Topic::append`].
    ///
    /// # Errors
    /// [`ProduceError`].
    pub fn append(&self, topic: &str, record: Record) -> Result<Appended, ProduceError> {
        self.append_with(topic, record, Ack::Durable)
    }

    /// See [`Topic::append_with`].
    ///
    /// # Errors
    /// [`ProduceError`].
    pub fn append_with(&self, topic: &str, record: Record, ack: Ack) -> Result<Appended, ProduceError> {
        let found = self.broker.topic(topic).map_err(|_| ProduceError::unknown(topic, 0))?;
        self.wait(found.append_with(record, ack))
    }

    /// See [`crate::Broker::tail`]. The iterator waits for records; it ends after an error.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn tail(
        &self,
        topic: &str,
        from: Place,
    ) -> Result<impl Iterator<Item = Result<Consumed, EngineError>> + use<>, EngineError> {
        let mut tail = self.wait(self.broker.tail(topic, from))?;
        let runtime = Arc::clone(&self.runtime);
        Ok(std::iter::from_fn(move || runtime.block_on(tail.next())))
    }

    /// See [`crate::Broker::consumer`].
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn consumer<T: Into<String>>(
        &self,
        group: &str,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Consumer, EngineError> {
        let consumer = self.broker.consumer(group, topics)?;
        Ok(Consumer { consumer: Some(consumer), runtime: Arc::clone(&self.runtime) })
    }

    /// See [`crate::Broker::transactional`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub fn transactional(
        &self,
        id: &str,
        options: TransactionOptions,
    ) -> Result<TransactionalProducer, TransactionalError> {
        let producer = self.wait(self.broker.transactional(id, options))?;
        Ok(TransactionalProducer { producer, runtime: Arc::clone(&self.runtime) })
    }
}

/// See [`crate::TransactionalProducer`].
///
/// ```
/// use anabranch_broker::{Apply, NewTopic, Record, TransactionOptions, blocking::Broker};
///
/// let dir = tempfile::tempdir()?;
/// let broker = Broker::open(dir.path())?;
/// for topic in ["orders", "bills"] {
///     broker.create_topic(NewTopic::new(topic), Apply::Now)?;
/// }
/// let mut shop = broker.transactional("shop-1", TransactionOptions::default())?;
/// let mut transaction = shop.begin()?;
/// transaction.append("orders", Record::new("order-1", "two cups"))?;
/// transaction.append("bills", Record::new("order-1", "12.50"))?;
/// transaction.commit()?;
/// broker.close();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TransactionalProducer {
    producer: crate::TransactionalProducer,
    runtime: Arc<Runtime>,
}

impl TransactionalProducer {
    /// See [`crate::TransactionalProducer::begin`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub fn begin(&mut self) -> Result<Transaction<'_>, TransactionalError> {
        let transaction = self.runtime.block_on(self.producer.begin())?;
        Ok(Transaction { transaction: Some(transaction), runtime: &self.runtime })
    }
}

/// See [`crate::Transaction`].
#[derive(Debug)]
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'a> {
    /// There until it ends.
    transaction: Option<crate::Transaction<'a>>,
    runtime: &'a Runtime,
}

impl Transaction<'_> {
    /// See [`crate::Transaction::append`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub fn append(&mut self, topic: &str, record: Record) -> Result<Appended, TransactionalError> {
        self.runtime.block_on(open(&mut self.transaction).append(topic, record))
    }

    /// See [`crate::Transaction::append_batch`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub fn append_batch(
        &mut self,
        topic: &str,
        partition: i32,
        records: Vec<Record>,
    ) -> Result<Produced, TransactionalError> {
        self.runtime.block_on(open(&mut self.transaction).append_batch(topic, partition, records))
    }

    /// See [`crate::Transaction::commit_offsets`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub fn commit_offsets(
        &mut self,
        group: &str,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<(), TransactionalError> {
        self.runtime.block_on(open(&mut self.transaction).commit_offsets(group, offsets))
    }

    /// See [`crate::Transaction::commit_consumed`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub fn commit_consumed(&mut self, consumer: &Consumer) -> Result<(), TransactionalError> {
        let consumer = consumer.consumer.as_ref().expect("it is there until it is dropped");
        self.runtime.block_on(open(&mut self.transaction).commit_consumed(consumer))
    }

    /// See [`crate::Transaction::commit`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub fn commit(mut self) -> Result<(), TransactionalError> {
        let transaction = self.transaction.take().expect("it is there until it ends");
        self.runtime.block_on(transaction.commit())
    }

    /// See [`crate::Transaction::abort`].
    ///
    /// # Errors
    /// [`TransactionalError`].
    pub fn abort(mut self) -> Result<(), TransactionalError> {
        let transaction = self.transaction.take().expect("it is there until it ends");
        self.runtime.block_on(transaction.abort())
    }
}

fn open<'a, 'b>(transaction: &'b mut Option<crate::Transaction<'a>>) -> &'b mut crate::Transaction<'a> {
    transaction.as_mut().expect("it is there until it ends")
}

impl Drop for Transaction<'_> {
    /// Inside the runtime, so that it is aborted.
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.transaction.take());
    }
}

/// See [`crate::Consumer`].
#[derive(Debug)]
pub struct Consumer {
    /// There until it is dropped.
    consumer: Option<crate::Consumer>,
    runtime: Arc<Runtime>,
}

impl Consumer {
    /// See [`crate::Consumer::next`].
    ///
    /// # Errors
    /// [`EngineError`].
    #[allow(clippy::should_implement_trait)] // it has no end, and takes no adapters: commit belongs between the records
    pub fn next(&mut self) -> Result<Consumed, EngineError> {
        let consumer = self.consumer.as_mut().expect("it is there until it is dropped");
        self.runtime.block_on(consumer.next())
    }

    /// See [`crate::Consumer::commit`].
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn commit(&mut self) -> Result<(), EngineError> {
        let consumer = self.consumer.as_mut().expect("it is there until it is dropped");
        self.runtime.block_on(consumer.commit())
    }

    /// See [`crate::Consumer::leave`].
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn leave(mut self) -> Result<(), EngineError> {
        let consumer = self.consumer.take().expect("it is there until it is dropped");
        self.runtime.block_on(consumer.leave())
    }
}

impl Drop for Consumer {
    /// Inside the runtime, so that it can leave its group.
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.consumer.take());
    }
}
