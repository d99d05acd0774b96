"""console-tools: Apache Kafka's own command line tools, as an administrator uses them every day."""

import csv
import os
import re

from tools import BOOTSTRAP, consume, contains, equal, group_row, lines, new_group, new_topic, produce, refused, texts, tool, unique, until, version

from smoke import TIMES_MS, main

PERF_RECORDS = 20_000


def offset(topic, when):
    """The offset that get-offsets prints for partition 0, as TOPIC:PARTITION:OFFSET; no line where there is none."""
    answer = lines(tool("get-offsets", "--topic", topic, "--partitions", "0", "--time", str(when)))
    equal([line.rsplit(":", 1)[0] for line in answer], [f"{topic}:0"] * len(answer))
    return int(answer[0].rsplit(":", 1)[1]) if answer else None


def broker_api_versions():
    shown = tool("broker-api-versions")
    contains(shown, "(id: ", "Produce(0): ", "Fetch(1): ", "ListOffsets(2): ", "Metadata(3): ", "ApiVersions(18): ", "[usable: ")


def cluster_id():
    equal(bool(re.search(r"Cluster ID: \S{10,}", tool("cluster", "cluster-id"))), True)


def topics_create_list_describe():
    topic = new_topic("tools-create", 3, "--config", "retention.ms=123456")
    equal(topic in lines(tool("topics", "--list")), True)
    shown = tool("topics", "--describe", "--topic", topic)
    contains(shown, f"Topic: {topic}", "PartitionCount: 3", "ReplicationFactor: 1", "retention.ms=123456")
    equal(re.findall(r"\tPartition: (\d+)\tLeader: \d+\tReplicas: \d+\tIsr: \d+", shown), ["0", "1", "2"])


def topics_create_refusals():
    topic = new_topic("tools-again")
    refused("already exists", "topics", "--create", "--topic", topic)
    refused("InvalidReplicationFactorException", "topics", "--create", "--topic", unique("tools-wide"), "--replication-factor", "9")
    tool("topics", "--create", "--topic", topic, "--if-not-exists")


def topics_add_partitions():
    topic = new_topic("tools-add", 2)
    tool("topics", "--alter", "--topic", topic, "--partitions", "5")
    until("5 partitions", lambda: "PartitionCount: 5" in tool("topics", "--describe", "--topic", topic))


def topics_delete():
    topic = new_topic("tools-delete")
    tool("topics", "--delete", "--topic", topic)
    until("the deleted topic is gone", lambda: topic not in lines(tool("topics", "--list")))


def console_round_trip():
    topic = new_topic("tools-console")
    sent = [f"h:{i},other:x\tk{i % 3}\tv{i}" for i in range(20)]
    produce(topic, sent, *(w for p in ("parse.headers=true", "parse.key=true") for w in ("--reader-property", p)))
    shown = ("print.headers=true", "print.key=true")
    equal(consume(topic, 20, "--from-beginning", *(w for p in shown for w in ("--formatter-property", p))), sent)


def console_from_offset():
    topic = new_topic("tools-offset")
    produce(topic, texts(0, 5), "--compression-codec", "zstd")
    equal(consume(topic, 2, "--partition", "0", "--offset", "3"), texts(3, 5))


def console_group_resume():
    topic, group = new_group("tools-resume")
    equal(consume(topic, 6, "--group", group, "--from-beginning"), texts(4, 10))


def groups_list_describe():
    topic, group = new_group("tools-groups")
    equal(group in lines(tool("consumer-groups", "--list")), True)
    equal(group_row(group, topic), [4, 10, 6])
    state = tool("consumer-groups", "--describe", "--state", "--group", group)
    row = next(line.split() for line in lines(state) if line.startswith(group))
    equal(row[-2:], ["Empty", "0"])


def groups_reset_offsets():
    topic, group = new_group("tools-reset")
    for how, offset in ((["--to-latest"], 10), (["--shift-by", "-3"], 7), (["--to-earliest"], 0)):
        shown = tool("consumer-groups", "--reset-offsets", "--group", group, "--topic", topic, *how, "--execute")
        rows = [line.split() for line in lines(shown)]
        equal([int(row[3]) for row in rows if row[:3] == [group, topic, "0"]], [offset])
    equal(group_row(group, topic), [0, 10, 10])
    equal(consume(topic, 10, "--group", group), texts(0, 10))


def groups_delete_offsets():
    topic, group = new_group("tools-forget")
    tool("consumer-groups", "--delete-offsets", "--group", group, "--topic", topic)
    described = tool("consumer-groups", "--describe", "--offsets", "--group", group)
    equal([line for line in lines(described) if topic in line], [])


def groups_delete():
    _, group = new_group("tools-groups-delete")
    contains(tool("consumer-groups", "--delete", "--group", group), "was successful")
    equal(group in lines(tool("consumer-groups", "--list")), False)


def configs_describe():
    topic = new_topic("tools-configs", 1, "--config", "cleanup.policy=compact")
    entity = ("--entity-type", "topics", "--entity-name", topic, "--describe")
    shown = tool("configs", *entity)
    contains(shown, "cleanup.policy=compact", "DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact")
    equal("retention.ms" in shown, False)
    contains(tool("configs", *entity, "--all"), "cleanup.policy=compact", "retention.ms=", "DEFAULT_CONFIG:")


def configs_alter():
    topic = new_topic("tools-configs-alter")
    entity = ("--entity-type", "topics", "--entity-name", topic)
    tool("configs", *entity, "--alter", "--add-config", "retention.ms=654321,cleanup.policy=[compact,delete]")
    changed = ("retention.ms=654321", "cleanup.policy=compact,delete")
    until("the new values", lambda: all(part in tool("configs", *entity, "--describe") for part in changed))
    tool("configs", *entity, "--alter", "--delete-config", "retention.ms")
    until("one value is default again", lambda: "retention.ms" not in tool("configs", *entity, "--describe"))
    contains(tool("configs", *entity, "--describe"), changed[1])


def configs_broker():
    broker = re.search(r"\(id: (\d+) ", tool("broker-api-versions")).group(1)
    contains(tool("configs", "--entity-type", "brokers", "--entity-name", broker, "--describe", "--all"),
             "auto.create.topics.enable=", "num.partitions=")


def get_offsets():
    """Earliest, latest, of the greatest timestamp, by time; the console producer stamps with the clock."""
    topic = new_topic("tools-get-offsets")
    produce(topic, texts(0, 3))
    stamped = consume(topic, 3, "--from-beginning", "--formatter-property", "print.timestamp=true")
    stamps = [int(re.match(r"CreateTime:(\d+)\tv", line).group(1)) for line in stamped]
    newest = stamps.index(max(stamps))  # of equal ones, the first
    asked = ("earliest", "latest", "max-timestamp", TIMES_MS[0], max(stamps), max(stamps) + 60_000)
    equal([offset(topic, when) for when in asked], [0, 3, newest, 0, newest, None])


def producer_perf():
    topic = new_topic("tools-perf", 2)
    last = lines(perf_produce(topic))[-1]
    equal(int(re.match(r"(\d+) records sent, ", last).group(1)), PERF_RECORDS)
    equal(sum(int(row.rsplit(":", 1)[1]) for row in lines(tool("get-offsets", "--topic", topic))), PERF_RECORDS)


def perf_produce(topic):
    return tool("producer-perf-test", "--topic", topic, "--num-records", str(PERF_RECORDS), "--record-size", "1024",
                "--throughput", "-1", "--command-property", "acks=all", env=os.environ)


def consumer_perf():
    topic = new_topic("tools-perf-consume", 2)
    perf_produce(topic)
    shown = lines(tool("consumer-perf-test", "--topic", topic, "--num-records", str(PERF_RECORDS), env=os.environ))
    header, figures = list(csv.reader(shown, skipinitialspace=True))[-2:]
    equal(int(figures[header.index("data.consumed.in.nMsg")]) >= PERF_RECORDS, True)


main("console-tools", version(), {
    "kafka-broker-api-versions.list": broker_api_versions,
    "kafka-cluster.cluster_id": cluster_id,
    "kafka-topics.create_list_describe": topics_create_list_describe,
    "kafka-topics.create_refusals": topics_create_refusals,
    "kafka-topics.add_partitions": topics_add_partitions,
    "kafka-topics.delete": topics_delete,
    "kafka-console-producer.headers_and_keys": console_round_trip,
    "kafka-console-consumer.from_offset": console_from_offset,
    "kafka-console-consumer.group_resume": console_group_resume,
    "kafka-consumer-groups.list_describe": groups_list_describe,
    "kafka-consumer-groups.reset_offsets": groups_reset_offsets,
    "kafka-consumer-groups.delete_offsets": groups_delete_offsets,
    "kafka-consumer-groups.delete": groups_delete,
    "kafka-configs.topic_describe": configs_describe,
    "kafka-configs.topic_alter": configs_alter,
    "kafka-configs.broker_describe": configs_broker,
    "kafka-get-offsets.times": get_offsets,
    "kafka-producer-perf-test.all_records": producer_perf,
    "kafka-consumer-perf-test.all_records": consumer_perf,
}, asked=())
