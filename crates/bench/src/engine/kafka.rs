//! librdkafka, with the settings that the engine gives it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use super::{APPEND_RECORDS, Options, PATIENCE};

/// What the engine sets, too.
fn client(options: &Options) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &options.bootstrap);
    config
}

#[derive(Default)]
struct Tally {
    delivered: AtomicU64,
}

impl ClientContext for Tally {}

impl ProducerContext for Tally {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) fn produce(options: &Options) -> anyhow::Result<()> {
    let mut config = client(options);
    config.set("enable.idempotence", "true").set("linger.ms", "1").set("message.max.bytes", "1048588");
    let producer: ThreadedProducer<Tally> = config.create_with_context(Tally::default())?;
    let value = vec![b'a'; options.record_bytes];
    for number in 0..options.records {
        // As many in a row for one partition as an append has.
        let partition = (number / APPEND_RECORDS as u64 % options.partitions as u64) as i32;
        let mut record = BaseRecord::<(), _>::to(&options.topic).partition(partition).payload(&value);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    thread::sleep(Duration::from_micros(200));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    producer.flush(PATIENCE)?;
    let delivered = producer.context().delivered.load(Ordering::Relaxed);
    ensure!(delivered == options.records, "{delivered} of {} records were delivered", options.records);
    Ok(())
}

pub(super) fn consume(options: &Options) -> anyhow::Result<()> {
    let mut config = client(options);
    config.set("group.id", "raw").set("enable.auto.commit", "false").set("check.crcs", "true");
    // As the engine has them, lest settings be compared.
    config.set("queued.max.messages.kbytes", "65536").set("fetch.queue.backoff.ms", "2");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..options.partitions {
        list.add_partition_offset(&options.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut count, mut bytes) = (0, 0);
    while count < options.records {
        match consumer.poll(PATIENCE) {
            Some(message) => {
                bytes += message?.payload().map_or(0, <[u8]>::len);
                count += 1;
            }
            None => bail!("{count} of {} records came", options.records),
        }
    }
    ensure!(bytes as u64 == options.records * options.record_bytes as u64, "{bytes} bytes came");
    Ok(())
}
