"""What the programs of the command line tools share: each tool is a process of its own, as an administrator uses it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from smoke import BOOTSTRAP, CHECK_SECONDS_MAX, equal, unique

KAFKA = os.environ["KAFKA_TOOLS"]  # the script `kafka` of tests/peers/kafka; the jars are where its KAFKA_LIB says
# These processes live for a second or two: the second compiler would not earn its keep.
SHORT_LIVED = {**os.environ, "KAFKA_OPTS": "-XX:TieredStopAtLevel=1"}


def tool(name, *args, send="", env=SHORT_LIVED):
    """What the tool prints to standard output; it must exit with 0."""
    bootstrap = ("--bootstrap-server", BOOTSTRAP)  # some want it before the verb, one behind it
    return run(f"kafka-{name}", *(args + bootstrap if name == "cluster" else bootstrap + args), send=send, env=env)


def run(name, *args, send="", env=SHORT_LIVED):
    """The same of a tool that is called in its own way."""
    done = subprocess.run([KAFKA, "run", name, *args], input=send, capture_output=True, text=True,
                          timeout=CHECK_SECONDS_MAX - 2, env=env)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()
        cause = re.search(r"\w+(Exception|Error): (?!\S+Exception).*", said)  # the innermost, before any stack
        raise RuntimeError(f"{name} exits with {done.returncode}: {cause.group(0) if cause else said[-400:]}")
    return done.stdout


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


def contains(text, *parts):
    missing = [part for part in parts if part not in text]
    if missing:
        raise AssertionError(f"no {missing!r} in {text.strip()[:300]!r}")


def until(what, condition, seconds=10):
    """Kafka's controller answers before its broker has followed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in {seconds} s it did not come to this: {what}")
        time.sleep(0.1)


def new_topic(prefix, partitions=1, *args):
    topic = unique(prefix)
    tool("topics", "--create", "--topic", topic, "--partitions", str(partitions), "--replication-factor", "1", *args)
    return topic


def produce(topic, values, *args):
    tool("console-producer", "--topic", topic, *args, send="".join(value + "\n" for value in values))


def consume(topic, count, *args):
    """`count` records; the tool fails, by this deadline of its own, if they do not come."""
    return lines(tool("console-consumer", "--topic", topic, "--max-messages", str(count), "--timeout-ms", "15000", *args))


def texts(first, last):
    return [f"v{i}" for i in range(first, last)]


def group_row(group, topic):
    """Committed offset, end offset and lag, as the row of partition 0 shows them."""
    described = tool("consumer-groups", "--describe", "--offsets", "--group", group)
    rows = [line.split() for line in lines(described)]
    row = next((row for row in rows if row[:3] == [group, topic, "0"]), None)
    if row is None:
        raise AssertionError(f"no row of {group} {topic} in {described.strip()[:300]!r}")
    return [int(cell) for cell in row[3:6]]


def new_group(prefix):
    """A topic of 10 records, and a group that has committed 4 of them and has no members any more."""
    topic, group = new_topic(prefix), unique("group")
    produce(topic, texts(0, 10))
    equal(consume(topic, 4, "--group", group, "--from-beginning"), texts(0, 4))
    return topic, group


def refused(reason, *args):
    try:
        tool(*args)
    except RuntimeError as refusal:
        contains(str(refusal), reason)
    else:
        raise AssertionError(f"must be refused: {' '.join(args)}")


def version():
    return re.search(r"<kafka.version>(.*)</kafka.version>", (Path(KAFKA).parent / "pom.xml").read_text()).group(1)
