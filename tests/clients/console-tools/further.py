"""further-tools: whatever else Apache Kafka's distribution has for the command line, one tool after the other; and which say nothing here."""

import json
import os
import re
import signal
import subprocess
import tempfile

from tools import BOOTSTRAP, KAFKA, SHORT_LIVED, consume, contains, equal, lines, new_group, new_topic, produce, run, texts, tool, unique, until, version

from smoke import CHECK_SECONDS_MAX, main

# Tools that no broker is asked through, or that need more than one. A tool that is neither here nor checked fails.
SAY_NOTHING = {
    "connect-mirror-maker": "copies between two clusters",
    "connect-plugin-path": "asks no broker",
    "kafka-dump-log": "reads files of Kafka's broker; for ours there is `anabranch dump`",
    "kafka-jmx": "reads a JVM's metrics; ours are at `/metrics`",
    "kafka-storage": "formats directories for Kafka's broker",
    "word-count": "the demo of Kafka Streams; a Streams application has a section of its own",
}


def written(content):
    """A file for a tool to read."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", dir=".", delete=False) as file:
        json.dump(content, file)
    return os.path.basename(file.name)


def refused_in_output(reason, *args):
    """Some tools fail and exit with 0."""
    try:
        shown = tool(*args)
    except RuntimeError as refusal:
        shown = str(refusal)
    contains(shown, reason)


def acls_without_authorizer():
    refused_in_output("SecurityDisabledException", "acls", "--list")


def client_metrics_alter():
    name = unique("metrics")
    tool("client-metrics", "--alter", "--name", name, "--metrics", "org.apache.kafka.producer.", "--interval", "10000")
    until("the resource is listed", lambda: name in tool("client-metrics", "--list"))


def cluster_list_endpoints():
    host, port = BOOTSTRAP.split(",")[0].rsplit(":", 1)
    rows = [line.split() for line in lines(tool("cluster", "list-endpoints"))]
    equal(any(row[1:3] == [host, port] and row[-1] == "broker" for row in rows), True)


def configs_describe_users():
    tool("configs", "--entity-type", "users", "--describe")


def configs_alter_quota():
    tool("configs", "--entity-type", "clients", "--entity-name", unique("client"), "--alter", "--add-config", "producer_byte_rate=1000000")


def configs_alter_scram():
    tool("configs", "--entity-type", "users", "--entity-name", unique("user"), "--alter", "--add-config", "SCRAM-SHA-256=[password=secret]")


def broker_id():
    return re.search(r"\(id: (\d+) ", tool("broker-api-versions")).group(1)


def configs_alter_broker():
    tool("configs", "--entity-type", "brokers", "--entity-name", broker_id(), "--alter", "--add-config", "log.cleaner.threads=1")


def configs_broker_loggers():
    contains(tool("configs", "--entity-type", "broker-loggers", "--entity-name", broker_id(), "--describe"), "=INFO")


def configs_alter_group():
    entity = ("--entity-type", "groups", "--entity-name", unique("group"))
    tool("configs", *entity, "--alter", "--add-config", "consumer.session.timeout.ms=50000")
    until("the value is described", lambda: "consumer.session.timeout.ms=50000" in tool("configs", *entity, "--describe"))


def console_read_committed():
    """What an aborted transaction wrote is not shown; kafka-transactions.abort has it the other way round."""
    topic = new_topic("tools-committed")
    produce(topic, texts(0, 3))
    equal(consume(topic, 3, "--from-beginning", "--isolation-level", "read_committed"), texts(0, 3))


def console_consumer_new_protocol():
    topic, group = new_topic("tools-protocol"), unique("group")
    produce(topic, texts(0, 3))
    equal(consume(topic, 3, "--group", group, "--from-beginning", "--command-property", "group.protocol=consumer"), texts(0, 3))
    row = next(line.split() for line in lines(tool("consumer-groups", "--list", "--type")) if line.startswith(group))
    equal(row[1], "Consumer")


def share_console():
    topic, group = new_topic("tools-share"), unique("share-group")
    tool("configs", "--entity-type", "groups", "--entity-name", group, "--alter", "--add-config", "share.auto.offset.reset=earliest")
    produce(topic, texts(0, 3))
    got = tool("console-share-consumer", "--topic", topic, "--group", group, "--max-messages", "3", "--timeout-ms", "15000")
    equal(sorted(lines(got)), texts(0, 3))


def groups_members():
    """A group whose member is there."""
    topic, group = new_topic("tools-members", 2), unique("group")
    with process("kafka-console-consumer", "--topic", topic, "--group", group, "--bootstrap-server", BOOTSTRAP):
        until("the member has both partitions",
              lambda: re.search(rf"^{group} .* 2 .*{topic}\S*0,1", tool("consumer-groups", "--describe", "--members", "--verbose", "--group", group), re.M),
              CHECK_SECONDS_MAX / 2)
        state = tool("consumer-groups", "--describe", "--state", "--group", group)
        equal(next(line.split() for line in lines(state) if line.startswith(group))[-2:], ["Stable", "1"])


def groups_to_datetime_and_export():
    topic, group = new_group("tools-datetime")
    shown = tool("consumer-groups", "--reset-offsets", "--group", group, "--topic", topic, "--to-datetime", "2020-01-01T00:00:00.000", "--export")
    equal(lines(shown)[-1].replace('"', ""), f"{topic},0,0")


def delegation_tokens():
    refused_in_output("UnsupportedByAuthenticationException", "delegation-tokens", "--describe", "--command-config", os.devnull)


def delete_records():
    topic = new_topic("tools-delete-records")
    produce(topic, texts(0, 5))
    file = written({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 3}]})
    contains(tool("delete-records", "--offset-json-file", file), f"{topic}-0\tlow_watermark: 3")
    equal(consume(topic, 2, "--from-beginning"), texts(3, 5))


def e2e_latency():
    topic = new_topic("tools-latency")
    contains(tool("e2e-latency", "--topic", topic, "--num-records", "20", "--producer-acks", "all", "--record-size", "100"), "Percentiles: ")


def features():
    return {m.group(1): m.group(2) for m in re.finditer(r"Feature: (\S+)\s.*FinalizedVersionLevel: (\S+)", tool("features", "describe"))}


def features_describe():
    finalized = features()
    equal((finalized["group.version"], finalized["transaction.version"]), ("1", "2"))


def features_describe_all():
    equal(sorted(features()), ["eligible.leader.replicas.version", "group.version", "kraft.version", "metadata.version", "share.version",
                               "streams.version", "transaction.version"])


def features_upgrade():
    contains(tool("features", "upgrade", "--feature", "transaction.version=2"), "was upgraded to 2")


def features_upgrade_release():
    contains(tool("features", "upgrade", "--release-version", "4.3-IV0"), "transaction.version was upgraded to 2")


def groups_list():
    _, group = new_group("tools-all-groups")
    row = next(line.split() for line in lines(tool("groups", "--list")) if line.startswith(group))
    equal(row, [group, "Classic", "consumer"])


def leader_election():
    topic = new_topic("tools-election")
    shown = tool("leader-election", "--election-type", "preferred", "--topic", topic, "--partition", "0")
    contains(shown, f"Valid replica already elected for partitions {topic}-0")


def leader_election_all():
    tool("leader-election", "--election-type", "preferred", "--all-topic-partitions")


def log_dirs():
    topic = new_topic("tools-log-dirs")
    produce(topic, texts(0, 5))
    told = json.loads(lines(tool("log-dirs", "--describe", "--topic-list", topic))[-1])
    [partition] = [p for broker in told["brokers"] for dir in broker["logDirs"] for p in dir["partitions"]]
    equal((partition["partition"], partition["size"] > 0, partition["isFuture"]), (f"{topic}-0", True, False))


def quorum_status():
    contains(tool("metadata-quorum", "describe", "--status"), "LeaderId:", "MaxFollowerLag:         0", 'CurrentVoters:          [{"id": ')


def quorum_replication():
    equal([line.split()[-1] for line in lines(tool("metadata-quorum", "describe", "--replication"))], ["Status", "Leader"])


def moved(topic):
    return {"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [int(broker_id())], "log_dirs": ["any"]}]}


def reassign_generate():
    topic = new_topic("tools-generate")
    file = written({"version": 1, "topics": [{"topic": topic}]})
    shown = tool("reassign-partitions", "--topics-to-move-json-file", file, "--broker-list", broker_id(), "--generate")
    equal(json.loads(lines(shown)[-1]), moved(topic))


def reassign_execute_verify():
    topic = new_topic("tools-reassign")
    file = written(moved(topic))
    contains(tool("reassign-partitions", "--reassignment-json-file", file, "--execute"), "Successfully started partition reassignment")
    contains(tool("reassign-partitions", "--reassignment-json-file", file, "--verify"), f"Reassignment of partition {topic}-0 is completed")


def reassign_list():
    contains(tool("reassign-partitions", "--list"), "No partition reassignments found.")


def reassign_throttle():
    topic = new_topic("tools-throttle")
    file = written(moved(topic))
    contains(tool("reassign-partitions", "--reassignment-json-file", file, "--execute", "--throttle", "1000000"), "throttle limit was set")
    tool("reassign-partitions", "--reassignment-json-file", file, "--verify")


class process:
    """A tool that goes on until it is killed; its output is in `lines`."""

    def __init__(self, name, *args):
        self.command = [KAFKA, "run", name, *args]

    def __enter__(self):
        self.file = tempfile.TemporaryFile("w+")
        self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.file, stderr=subprocess.STDOUT, env=SHORT_LIVED,
                                      start_new_session=True)
        return self

    def __exit__(self, *_):
        os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def lines(self):
        self.file.seek(0)
        return lines(self.file.read())


def replica_verification():
    topic = new_topic("tools-verification")
    produce(topic, texts(0, 5))
    with process("kafka-replica-verification", "--broker-list", BOOTSTRAP, "--topics-include", topic, "--report-interval-ms", "500") as tool_:
        until("no lag is told", lambda: any("max lag is 0 for partition" in line for line in tool_.lines()), 20)


def share_groups_list():
    topic, group = new_topic("tools-share-groups"), unique("share-group")
    with process("kafka-console-share-consumer", "--topic", topic, "--group", group, "--bootstrap-server", BOOTSTRAP):
        until("the group is listed", lambda: group in tool("share-groups", "--list"), 20)


def share_perf():
    topic, group = new_topic("tools-share-perf"), unique("share-group")
    tool("configs", "--entity-type", "groups", "--entity-name", group, "--alter", "--add-config", "share.auto.offset.reset=earliest")
    produce(topic, texts(0, 100))
    shown = tool("share-consumer-perf-test", "--topic", topic, "--group", group, "--num-records", "100", "--timeout", "15000")
    contains(shown, "100")


def verifiable_share_consumer():
    topic, group = new_topic("tools-verifiable-share"), unique("share-group")
    produce(topic, texts(0, 3))
    shown = tool("verifiable-share-consumer", "--topic", topic, "--group-id", group, "--max-messages", "3", "--offset-reset-strategy", "earliest")
    contains(shown, '"records_consumed"')


def streams_groups_list():
    tool("streams-groups", "--list")


def streams_application_reset():
    topic, group = new_group("tools-streams-reset")
    tool("streams-application-reset", "--application-id", group, "--input-topics", topic, "--force")
    equal(consume(topic, 10, "--group", group), texts(0, 10))


class open_transaction:
    """A producer that was killed in the middle of a transaction; its topic."""

    def __enter__(self):
        self.topic, self.id = new_topic("tools-open"), unique("txn")
        with process("kafka-producer-perf-test", "--topic", self.topic, "--num-records", "1000000", "--record-size", "10", "--throughput", "20",
                     "--transactional-id", self.id, "--transaction-duration-ms", "600000", "--bootstrap-server", BOOTSTRAP,
                     "--command-property", "transaction.timeout.ms=600000", "linger.ms=0"):
            until("a record is there", lambda: int(lines(tool("get-offsets", "--topic", self.topic))[0].rsplit(":", 1)[1]) > 0, 25)
        return self

    def __exit__(self, *_):
        pass

    def start_offset(self):
        shown = lines(tool("transactions", "describe-producers", "--topic", self.topic, "--partition", "0"))
        header, row = (line.split("\t") for line in shown[-2:])
        return row[header.index("CurrentTransactionStartOffset")].strip()


def transactions_list_describe():
    with open_transaction() as transaction:
        rows = [line.split() for line in lines(tool("transactions", "list"))]
        equal([row[-1] for row in rows if row[0] == transaction.id], ["Ongoing"])
        described = tool("transactions", "describe", "--transactional-id", transaction.id)
        contains(described, transaction.id, "Ongoing", f"{transaction.topic}-0")
        tool("transactions", "forceTerminateTransaction", "--transactionalId", transaction.id)
        until("it has ended", lambda: "Ongoing" not in tool("transactions", "describe", "--transactional-id", transaction.id), 20)
        produce(transaction.topic, ["after"])
        equal(consume(transaction.topic, 1, "--from-beginning", "--isolation-level", "read_committed"), ["after"])


def transactions_abort():
    with open_transaction() as transaction:
        equal(transaction.start_offset(), "0")
        tool("transactions", "abort", "--topic", transaction.topic, "--partition", "0", "--start-offset", "0")
        until("nothing is open", lambda: transaction.start_offset() == "None", 20)
        produce(transaction.topic, ["after"])
        equal(consume(transaction.topic, 1, "--from-beginning", "--isolation-level", "read_committed"), ["after"])


def transactions_find_hanging():
    contains(tool("transactions", "find-hanging", "--broker-id", broker_id()), "CoordinatorEpoch")


def events(shown):
    return [json.loads(line) for line in lines(shown) if line.startswith("{")]


def verifiable_producer():
    topic = new_topic("tools-verifiable")
    told = events(tool("verifiable-producer", "--topic", topic, "--max-messages", "5"))
    equal([event["offset"] for event in told if event["name"] == "producer_send_success"], [0, 1, 2, 3, 4])


def verifiable_consumer():
    topic = new_topic("tools-verifiable-consumer")
    produce(topic, texts(0, 5))
    told = events(tool("verifiable-consumer", "--topic", topic, "--group-id", unique("group"), "--max-messages", "5", "--reset-policy", "earliest"))
    equal(sum(event["count"] for event in told if event["name"] == "records_consumed"), 5)
    equal([event["success"] for event in told if event["name"] == "offsets_committed"][-1], True)


def compaction_tester():
    contains(run("log-compaction-tester", "--bootstrap-server", BOOTSTRAP, "--messages", "1000", "--sleep", "1"), "Data verification is completed")


def message_copier():
    source, target = new_topic("tools-copy-from"), new_topic("tools-copy-to")
    produce(source, texts(0, 10))
    shown = run("transactional-message-copier", "--broker-list", BOOTSTRAP, "--input-topic", source, "--input-partition", "0", "--output-topic", target,
                "--transactional-id", unique("txn"), "--consumer-group", unique("group"), "--transaction-size", "4")
    equal(events(shown)[-1]["consumed"], 10)
    equal(consume(target, 10, "--from-beginning", "--isolation-level", "read_committed"), texts(0, 10))


CHECKS = {
    "kafka-acls.list_without_authorizer": acls_without_authorizer,
    "kafka-client-metrics.alter_list": client_metrics_alter,
    "kafka-cluster.list_endpoints": cluster_list_endpoints,
    "kafka-configs.users_describe": configs_describe_users,
    "kafka-configs.client_quota": configs_alter_quota,
    "kafka-configs.user_scram": configs_alter_scram,
    "kafka-configs.broker_alter": configs_alter_broker,
    "kafka-configs.broker_loggers": configs_broker_loggers,
    "kafka-configs.group_alter": configs_alter_group,
    "kafka-console-consumer.read_committed": console_read_committed,
    "kafka-console-consumer.consumer_protocol": console_consumer_new_protocol,
    "kafka-console-share-consumer.records": share_console,
    "kafka-consumer-groups.members": groups_members,
    "kafka-consumer-groups.to_datetime_export": groups_to_datetime_and_export,
    "kafka-delegation-tokens.refused_on_plaintext": delegation_tokens,
    "kafka-delete-records.before_offset": delete_records,
    "kafka-e2e-latency.records": e2e_latency,
    "kafka-features.describe": features_describe,
    "kafka-features.describe_all": features_describe_all,
    "kafka-features.upgrade": features_upgrade,
    "kafka-features.upgrade_release": features_upgrade_release,
    "kafka-groups.list": groups_list,
    "kafka-leader-election.preferred": leader_election,
    "kafka-leader-election.all": leader_election_all,
    "kafka-log-dirs.sizes": log_dirs,
    "kafka-metadata-quorum.status": quorum_status,
    "kafka-metadata-quorum.replication": quorum_replication,
    "kafka-reassign-partitions.generate": reassign_generate,
    "kafka-reassign-partitions.execute_verify": reassign_execute_verify,
    "kafka-reassign-partitions.list": reassign_list,
    "kafka-reassign-partitions.throttle": reassign_throttle,
    "kafka-replica-verification.no_lag": replica_verification,
    "kafka-share-consumer-perf-test.records": share_perf,
    "kafka-share-groups.list": share_groups_list,
    "kafka-streams-application-reset.to_the_beginning": streams_application_reset,
    "kafka-streams-groups.list": streams_groups_list,
    "kafka-transactions.list_describe_terminate": transactions_list_describe,
    "kafka-transactions.producers_abort": transactions_abort,
    "kafka-transactions.find_hanging": transactions_find_hanging,
    "kafka-verifiable-consumer.records": verifiable_consumer,
    "kafka-verifiable-producer.records": verifiable_producer,
    "kafka-verifiable-share-consumer.records": verifiable_share_consumer,
    "log-compaction-tester.verified": compaction_tester,
    "transactional-message-copier.all_committed": message_copier,
}


def every_tool():
    """No tool of the distribution is forgotten."""
    here = open("smoke.py").read()
    known = {name.split(".")[0] for name in CHECKS} | SAY_NOTHING.keys() | set(re.findall(r'^    "([a-z0-9-]+)\.', here, re.M))
    equal(sorted(known), lines(subprocess.run([KAFKA, "run"], capture_output=True, text=True, check=True).stdout))


main("further-tools", version(), CHECKS | {"every_tool": every_tool} | dict.fromkeys(SAY_NOTHING), asked=(), notes=SAY_NOTHING)
