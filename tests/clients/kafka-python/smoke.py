"""kafka-python: a client in Python alone, threads and blocking calls."""

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata

from smoke import BOOTSTRAP, HEADERS, LARGE, LARGE_TOPIC, TIMES_MS, equal, main, refused, unique, values


def admin():
    return KafkaAdminClient(bootstrap_servers=BOOTSTRAP)


def new_topic(prefix, partitions=1, configs=None):
    topic = unique(prefix)
    admin().create_topics(
        {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": configs or {}}},
        wait_for_metadata=True,
    )
    return topic


def produce(topic, payloads, **config):
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, **{"acks": "all", **config})
    sent = [producer.send(topic, payload, partition=0) for payload in payloads]
    producer.flush(20)
    offsets = [future.get(10).offset for future in sent]
    producer.close()
    return offsets


def consumer(*topics, group=None, **config):
    config = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **config}
    if group:
        config |= {"group_id": group, "heartbeat_interval_ms": 500, "session_timeout_ms": 6000}
    member = KafkaConsumer(bootstrap_servers=BOOTSTRAP, **config)
    # kafka-python 3.0.12 that learns of its topic only while it joins joins again at once, and may then hang for good:
    # seen with Kafka, in one run of six, where a group does not wait (group.initial.rebalance.delay.ms=0).
    for topic in topics:
        member.partitions_for_topic(topic)
    if topics:
        member.subscribe(topics)
    return member


def take(member, count, seconds=20):
    records, deadline = [], time.monotonic() + seconds
    while len(records) < count and time.monotonic() < deadline:
        for batch in member.poll(200, max_records=count - len(records)).values():
            records += batch
    return records


def read_all(topic, **config):
    """Every record of partition 0, from the beginning to the end as the isolation level shows it."""
    reader, partition, records = consumer(**config), TopicPartition(topic, 0), []
    reader.assign([partition])
    reader.seek_to_beginning(partition)
    end, deadline = reader.end_offsets([partition])[partition], time.monotonic() + 20
    while reader.position(partition) < end and time.monotonic() < deadline:
        for batch in reader.poll(200).values():
            records += batch
    reader.close()
    return records


def bodies(records):
    return [record.value for record in records]


def metadata():
    topic = new_topic("metadata", 2)
    equal(len(admin().describe_cluster()["brokers"]) > 0, True)
    equal(consumer().partitions_for_topic(topic), {0, 1})


def produce_acks_all():
    equal(produce(new_topic("acks"), values(3)), [0, 1, 2])


def produce_acks_1():
    equal(produce(new_topic("acks1"), values(3), acks=1, enable_idempotence=False), [0, 1, 2])


def produce_acks_0():
    topic = new_topic("acks0")
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks=0, enable_idempotence=False)
    for value in values(3):
        producer.send(topic, value, partition=0)
    producer.flush(20)
    equal(bodies(read(topic, 0, 3)), values(3))


def read(topic, offset, count, **config):
    """Of partition 0, from this offset on."""
    reader = consumer(**config)
    reader.assign([TopicPartition(topic, 0)])
    reader.seek(TopicPartition(topic, 0), offset)
    return take(reader, count)


def consume_from_to():
    topic = new_topic("from-to")
    produce(topic, values(10))
    equal(bodies(read(topic, 3, 4)), values(10)[3:7])


def large_message():
    topic, limit = new_topic("large", configs=LARGE_TOPIC), {"max_request_size": 8_000_000}
    equal(produce(topic, [LARGE], **limit), [0])
    refused("TooLarge", produce, topic, [LARGE * 2], **limit)
    equal(bodies(read_all(topic)) == [LARGE], True)


def errors_bad_input():
    topic = new_topic("bad-input")
    create = lambda name, replicas=1, **configs: admin().create_topics(
        {name: {"num_partitions": 1, "replication_factor": replicas, "configs": configs}})
    refused("TopicAlreadyExists", create, topic)
    refused("InvalidTopic", create, "no/such name")
    refused("InvalidReplicationFactor", create, unique("absent"), 9)
    refused("InvalidConfig", create, unique("absent"), **{"retention.ms": "soon"})
    refused("UnknownTopicOrPartition", admin().delete_topics, [unique("absent")])
    refused("OffsetOutOfRange", read, topic, 99, 1, auto_offset_reset="none")


def consume_from_beginning():
    topic = new_topic("beginning")
    produce(topic, values(5))
    equal(bodies(read_all(topic)), values(5))


def group_commit_resume():
    topic, group = new_topic("resume"), unique("group")
    produce(topic, values(10))
    first = consumer(topic, group=group)
    last = take(first, 4)[-1]
    first.commit({TopicPartition(topic, 0): OffsetAndMetadata(last.offset + 1, "", -1)})
    first.close()
    second = consumer(topic, group=group)
    equal(bodies(take(second, 6)), values(10)[4:])
    second.close()


def compression(codec):
    topic = new_topic(codec)
    produce(topic, values(20, 500), compression_type=codec, linger_ms=50)
    equal(bodies(read_all(topic)), values(20, 500))


def headers_duplicate_keys():
    topic = new_topic("headers")
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    producer.send(topic, b"v", headers=HEADERS).get(10)
    equal([tuple(header) for header in read_all(topic)[0].headers], HEADERS)


def timestamps_offsets_for_times():
    topic = new_topic("times")
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP)
    for time_ms in TIMES_MS:
        producer.send(topic, b"v", partition=0, timestamp_ms=time_ms).get(10)
    equal([record.timestamp for record in read_all(topic)], TIMES_MS)
    partition = TopicPartition(topic, 0)
    equal(consumer().offsets_for_times({partition: TIMES_MS[0] + 500})[partition].offset, 1)


def create_delete_topic():
    topic = new_topic("delete", 3)
    equal(len(admin().describe_topics([topic])[0]["partitions"]), 3)
    admin().delete_topics([topic])
    deadline = time.monotonic() + 15
    while topic in admin().list_topics():
        if time.monotonic() > deadline:
            raise TimeoutError("the deleted topic is still listed")
        time.sleep(0.1)


def describe_configs():
    topic = new_topic("configs", configs={"retention.ms": "123456"})
    described = admin().describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    equal(described["topic"][topic]["retention.ms"]["value"], "123456")


def idempotent():
    topic = new_topic("idempotent")
    produce(topic, values(20), enable_idempotence=True)
    equal(bodies(read_all(topic)), values(20))


def transactions():
    topic = new_topic("transactions")
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id=unique("txn"))
    producer.init_transactions()
    for value, commit in ((b"c1", True), (b"a1", False), (b"c2", True)):
        producer.begin_transaction()
        producer.send(topic, value, partition=0).get(10)
        (producer.commit_transaction if commit else producer.abort_transaction)()
    equal(bodies(read_all(topic, isolation_level="read_committed")), [b"c1", b"c2"])
    equal(bodies(read_all(topic, isolation_level="read_uncommitted")), [b"c1", b"a1", b"c2"])


def transactional(name):
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id=name)
    producer.init_transactions()
    return producer


def begin(producer, topic, value):
    producer.begin_transaction()
    producer.send(topic, value, partition=0).get(10)


def committed(topic):
    return bodies(read_all(topic, isolation_level="read_committed"))


def transactions_fenced():
    topic, name = new_topic("fenced"), unique("txn")
    zombie = transactional(name)
    begin(zombie, topic, b"zombie")
    producer = transactional(name)
    begin(producer, topic, b"c1")
    refused("Fenced", zombie.commit_transaction)
    producer.commit_transaction()
    equal(committed(topic), [b"c1"])


def read_committed_only():
    topic = new_topic("committed")
    first, second = transactional(unique("txn")), transactional(unique("txn"))
    begin(first, topic, b"c0")
    first.commit_transaction()
    begin(first, topic, b"open")
    begin(second, topic, b"c3")
    second.commit_transaction()
    produce(topic, [b"v5"])
    equal(committed(topic), [b"c0"])
    equal(bodies(read_all(topic, isolation_level="read_uncommitted")), [b"c0", b"open", b"c3", b"v5"])
    first.abort_transaction()
    equal(committed(topic), [b"c0", b"c3", b"v5"])


def group_rebalance_two_members():
    topic, group = new_topic("rebalance", 2), unique("group")
    members = []

    def join():
        member, leaves = consumer(topic, group=group), threading.Event()

        # Each polls in a thread of its own: kafka-python 3.0.12 drops a join that is answered between two polls, and with
        # both in one thread it always is, while the other is polled; they may then join again and again for good.
        def follow():
            while not leaves.is_set():
                member.poll(50)
            member.close()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        members.append((member, leaves, thread))

    def leave():
        _, leaves, thread = members.pop()
        leaves.set()
        thread.join()

    def await_share(shares):
        deadline, since = time.monotonic() + 9, None
        while since is None or time.monotonic() < since + 1:  # held for a second: the same second join, see consumer()
            reached = [len(member.assignment()) for member, _, _ in members]
            if time.monotonic() > deadline:
                raise TimeoutError(f"shares are not {shares}: {reached}")
            since = (since or time.monotonic()) if sorted(reached) == shares else None
            time.sleep(0.05)

    for shares in ([2], [1, 1]):
        join()
        await_share(shares)
    leave()
    await_share([2])
    leave()


main("kafka-python", kafka.__version__, {
    "metadata": metadata,
    "produce_acks_all": produce_acks_all,
    "produce_acks_1": produce_acks_1,
    "produce_acks_0": produce_acks_0,
    "consume_from_beginning": consume_from_beginning,
    "consume_from_to": consume_from_to,
    "large_message": large_message,
    "errors_bad_input": errors_bad_input,
    "group_commit_resume": group_commit_resume,
    "compression": compression,
    "headers_duplicate_keys": headers_duplicate_keys,
    "timestamps_offsets_for_times": timestamps_offsets_for_times,
    "create_delete_topic": create_delete_topic,
    "describe_configs": describe_configs,
    "idempotent": idempotent,
    "transactions_commit_abort_read_committed": transactions,
    "transactions_fenced": transactions_fenced,
    "read_committed_only": read_committed_only,
    "group_rebalance_two_members": group_rebalance_two_members,
})
