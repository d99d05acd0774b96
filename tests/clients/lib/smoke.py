"""What the Python smoke programs share: run each check on its own, in bounded time, and print one JSON line."""

import json
import os
import threading
import uuid

CHECKS = (
    "metadata",
    "produce_acks_all",
    "produce_acks_1",
    "produce_acks_0",
    "consume_from_beginning",
    "consume_from_to",
    "large_message",
    "errors_bad_input",
    "group_commit_resume",
    "compression",
    "headers_duplicate_keys",
    "timestamps_offsets_for_times",
    "create_delete_topic",
    "describe_configs",
    "idempotent",
    "transactions_commit_abort_read_committed",
    "transactions_fenced",
    "transactions_timeout",
    "read_committed_only",
    "group_rebalance_two_members",
)
CODECS = ("gzip", "snappy", "lz4", "zstd")
CHECK_SECONDS_MAX = int(os.environ.get("CHECK_SECONDS_MAX", "30"))

BOOTSTRAP = os.environ["KAFKA_BOOTSTRAP"]

# Every client sends and expects these.
HEADERS = [("k", b"1"), ("other", b""), ("k", b"2")]
TIMES_MS = [1_700_000_000_000, 1_700_000_001_000, 1_700_000_002_000]


def values(count, width=0):
    return [b"v%d" % i + b"." * width for i in range(count)]


def unique(prefix):
    return f"smoke-{prefix}-{uuid.uuid4().hex[:10]}"


LARGE_TOPIC = {"max.message.bytes": "3000000"}
LARGE = b"x" * 2_500_000  # one fits, two do not


def refused(reason, attempt, *args, **more):
    """The attempt must fail, and its error must say why."""
    try:
        outcome = attempt(*args, **more)
    except Exception as error:
        if reason not in f"{type(error).__name__} {error}":
            raise
    else:
        raise AssertionError(f"must be refused with {reason}, and is {outcome!r}")


def equal(actual, expected):
    if actual != expected:
        raise AssertionError(f"expected {expected!r}, got {actual!r}")


def attempt(check, *args):
    """None if the check passes, else what went wrong. A check that hangs is left behind in its thread."""
    outcome = ["no answer within %d s" % CHECK_SECONDS_MAX]

    def body():
        try:
            check(*args)
            outcome[0] = None
        except BaseException as error:  # a check that fails in whatever way is a report, not a crash
            outcome[0] = f"{type(error).__name__}: {error}"[:500]

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(CHECK_SECONDS_MAX)
    return outcome[0]


def main(client, version, checks, asked=CHECKS, notes={}):
    """`checks` maps a name of `asked` (or an extra one) to a function; an absent one, or None, is null: the client cannot
    do it, and `notes` may say why. `compression` is called once for each codec in `checks["codecs"]` (default: all).
    Where the environment's CHECKS names some, only these are run."""
    report = {"client": client, "version": version, "checks": {}, "errors": {}, "notes": notes}

    def note(name, *args):
        label = ".".join((name, *args))
        error = attempt(checks[name], *args)
        if error:
            report["errors"][label] = error
        return error is None

    codecs = checks.pop("codecs", CODECS)
    wanted = {check.split(".")[0] if check.startswith("compression") else check
              for check in os.environ.get("CHECKS", "").split(",") if check}
    for name in (*asked, *(c for c in checks if c not in asked)):
        if wanted and name not in wanted:
            continue
        if checks.get(name) is None:
            report["checks"][name] = None
        elif name == "compression":
            report["checks"][name] = {codec: note(name, codec) if codec in codecs else None for codec in CODECS}
        else:
            report["checks"][name] = note(name)
    print(json.dumps(report), flush=True)
    os._exit(0)  # threads of checks that hang must not keep the process alive
