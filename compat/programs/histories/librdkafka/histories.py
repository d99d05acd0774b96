"""Transactional clients that write down what they do and see, by librdkafka: see ../java/Histories.java, which does the same.

    python histories.py BOOTSTRAP NAME FILE

Here a loop has its partitions assigned by hand, so that nothing but its transactional id fences it; and transactions are
those before KIP-890. It goes on until it is killed.
"""

import json
import os
import random
import sys
import threading
import time
import traceback

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition

PARTITIONS = 4
RECORDS_MAX = 6
GROUP = "librdkafka"
BOOTSTRAP, NAME, FILE = sys.argv[1:]
history = os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(client, op, outcome="ok", **fields):
    """Before this returns the line is the system's, and outlives the process."""
    event = {"client": client, "op": op, **fields, "outcome": outcome, "at_us": time.time_ns() // 1000}
    line = (json.dumps(event) + "\n").encode()
    assert os.write(history, line) == len(line)


def name_of(at):
    return f"{at.topic}-{at.partition}"


def producer(transactional_id):
    return Producer({
        "bootstrap.servers": BOOTSTRAP, "transactional.id": transactional_id, "transaction.timeout.ms": 8000,
        "socket.timeout.ms": 5000, "message.timeout.ms": 8000, "reconnect.backoff.max.ms": 500, "linger.ms": 1,
        "logger": None,
    })


def consumer(isolation, group):
    return Consumer({
        "bootstrap.servers": BOOTSTRAP, "group.id": group, "isolation.level": isolation, "enable.auto.commit": False,
        "enable.auto.offset.store": False, "enable.partition.eof": True, "auto.offset.reset": "error",
        "socket.timeout.ms": 10000, "reconnect.backoff.max.ms": 500, "fetch.wait.max.ms": 200, "logger": None,
    })


class Lost(Exception):
    """This producer can do no more."""


def in_turn(what):
    """Asks again as long as that may help."""
    while True:
        try:
            return what()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise


class Transactions:
    def __init__(self, transactional_id, client):
        self.client, self.number, self.sent = client, 0, 0
        self.producer = producer(transactional_id)
        in_turn(lambda: self.producer.init_transactions(20))

    def begin(self):
        note(self.client, "begin")
        self.number, self.sent = self.number + 1, 0
        self.producer.begin_transaction()

    def send(self, topic, source=None):
        value = f"{self.client}:{self.number}:{self.sent}"
        self.sent += 1
        to = random.randrange(PARTITIONS)
        fields = {"partition": f"{topic}-{to}", "value": value} | ({"source": source} if source else {})

        def delivered(error, message):
            if error is None:
                note(self.client, "send", **fields, offset=message.offset())

        note(self.client, "send", "unknown", **fields)
        self.producer.produce(topic, value.encode(), partition=to, on_delivery=delivered)
        self.producer.poll(0)

    def end(self):
        """Whether it was committed."""
        if random.randrange(10):
            try:
                # So that the deliveries are written down first.
                self.producer.flush(20)
                note(self.client, "commit", "unknown")
                in_turn(lambda: self.producer.commit_transaction(20))
                note(self.client, "commit")
                return True
            except KafkaException as error:
                self.must_abort(error)
        self.abort()
        return False

    def must_abort(self, error):
        print(f"{self.client}: {error}", file=sys.stderr, flush=True)
        if not error.args[0].txn_requires_abort():
            raise Lost from error

    def abort(self):
        note(self.client, "abort", "unknown")
        try:
            in_turn(lambda: self.producer.abort_transaction(20))
        except KafkaException as error:
            raise Lost from error
        note(self.client, "abort")


def produce(transactional_id, client):
    transactions = Transactions(transactional_id, client)
    while True:
        transactions.begin()
        for _ in range(random.randint(1, RECORDS_MAX)):
            transactions.send("in")
        if random.randrange(300) == 0:  # longer than a transaction may last
            time.sleep(random.uniform(9, 12))
        transactions.end()
        time.sleep(random.uniform(0, 0.03))


class Reader:
    """Notes what is read, and what is passed over."""

    def __init__(self, client, isolation, group):
        self.client, self.isolation = client, isolation
        self.consumer = consumer(isolation, group)
        self.positions = {}

    def assign(self, places):
        self.positions = {name_of(at): at.offset for at in places if at.offset >= 0}
        self.consumer.assign(places)

    def poll(self):
        """The records that came."""
        found, values, nexts = [], {}, {}
        for message in self.consumer.consume(100, 0.2):
            at = name_of(TopicPartition(message.topic(), message.partition())) if message.topic() else None
            if message.error() is None:
                self.positions.setdefault(at, message.offset())
                values.setdefault(at, []).append([message.offset(), message.value().decode()])
                nexts[at] = message.offset() + 1
                found.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                self.positions.setdefault(at, message.offset())
                nexts[at] = message.offset()
            elif message.error().fatal() or message.error().code() == KafkaError._AUTO_OFFSET_RESET:
                raise KafkaException(message.error())
        for at, following in nexts.items():
            start = self.positions[at]
            if following == start and at not in values:
                continue
            note(self.client, "poll", partition=at, offset=start, next=following, values=values.get(at, []),
                 isolation=self.isolation)
            self.positions[at] = following
        return found


def loop(number, client):
    transactions = Transactions(f"librdkafka-loop-{number}", client)
    reader = Reader(client, "read_committed", GROUP)
    mine = [TopicPartition("in", at) for at in range(PARTITIONS) if at % 2 == number]
    try:
        go_on(reader, mine)
        while True:
            messages = reader.poll()
            if not messages:
                continue
            transactions.begin()
            committed = False
            try:
                process(transactions, reader, messages)
                committed = transactions.end()
            except KafkaException as error:
                transactions.must_abort(error)
                transactions.abort()
            if not committed:
                go_on(reader, mine)
    finally:
        reader.consumer.close()


def go_on(reader, mine):
    """The group says where."""
    places = in_turn(lambda: reader.consumer.committed(mine, 20))
    for at in places:
        if at.error is not None:
            raise KafkaException(at.error)
        if at.offset >= 0:
            note(reader.client, "committed", group=GROUP, partition=name_of(at), offset=at.offset)
        note(reader.client, "seek", partition=name_of(at))
    reader.assign([TopicPartition(at.topic, at.partition, max(at.offset, 0)) for at in places])


def process(transactions, reader, messages):
    nexts = {}
    for message in messages:
        at = TopicPartition(message.topic(), message.partition(), message.offset() + 1)
        nexts[name_of(at)] = at
        transactions.send("out", {"group": GROUP, "partition": name_of(at), "offset": message.offset()})
    for at in nexts.values():
        note(transactions.client, "offsets", group=GROUP, partition=name_of(at), offset=at.offset)
    group = reader.consumer.consumer_group_metadata()
    in_turn(lambda: transactions.producer.send_offsets_to_transaction(list(nexts.values()), group, 20))


def read(isolation, client):
    reader = Reader(client, isolation, "nobody")
    start = OFFSET_END if random.randrange(3) else OFFSET_BEGINNING
    try:
        reader.assign([TopicPartition(topic, at, start) for topic in ("in", "out") for at in range(PARTITIONS)])
        while True:
            reader.poll()
    finally:
        reader.consumer.close()


def for_ever(role, live):
    def lives():
        incarnation = 0
        while True:
            try:
                live(f"{NAME}/{role}.{incarnation}")
            except (KafkaException, Lost) as error:
                print(f"{role}.{incarnation}: {error!r} {error.__cause__!r}", file=sys.stderr, flush=True)
                time.sleep(random.uniform(0.2, 2))
            except BaseException:  # what is wrong with this program shall be seen
                traceback.print_exc()
                os._exit(3)
            incarnation += 1

    threading.Thread(target=lives).start()


for number in range(2):
    for_ever(f"producer-{number}", lambda client, number=number: produce(f"librdkafka-producer-{number}", client))
    for_ever(f"loop-{number}", lambda client, number=number: loop(number, client))
for_ever("reader", lambda client: read("read_committed", client))
for_ever("peeker", lambda client: read("read_uncommitted", client))
