//! The Prometheus text format, version 0.0.4, of what the doors count.
//!
//! Names and labels follow OpenTelemetry's conventions for messaging (`messaging.system`, `messaging.operation.name`,
//! `messaging.destination.name`, `messaging.destination.partition.id`, `error.type`), as its Prometheus exporters write
//! them: dots become underscores, units and `_total` stand at the end.

use std::fmt::Write;

use anabranch_broker::{LogStatus, Partition};
use anabranch_core::budget::Budget;
use anabranch_wire::{ErrorCode, api};

use super::State;
use crate::metrics::{Counter, LATENCY_BOUNDS_S};

const SYSTEM: &str = "messaging_system=\"kafka\"";

/// The whole page.
pub(super) fn page(state: &State) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    requests(&mut page, state);
    traffic(&mut page, state);
    resources(&mut page, state);
    maintenance(&mut page, state);
    partitions(&mut page, state);
    page.0
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string does not fail");
    }

    fn counter(&mut self, name: &str, help: &str, value: &Counter) {
        self.head(name, "counter", help);
        self.line(format_args!("{name} {}", value.get()));
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }
}

fn requests(page: &mut Page, state: &State) {
    let name = "messaging_server_request_duration_seconds";
    page.head(name, "histogram", "From a request's last byte to its answer, by API.");
    for (api, metrics) in state.metrics.by_api() {
        let labels = format!("{SYSTEM},messaging_operation_name=\"{api}\"");
        let mut count = 0;
        for (bound, bucket) in LATENCY_BOUNDS_S.iter().zip(&metrics.buckets) {
            count += bucket.get();
            page.line(format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {count}"));
        }
        count += metrics.buckets[LATENCY_BOUNDS_S.len()].get();
        page.line(format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {count}"));
        page.line(format_args!("{name}_sum{{{labels}}} {}", metrics.nanoseconds.get() as f64 / 1e9));
        page.line(format_args!("{name}_count{{{labels}}} {count}"));
    }
    let name = "messaging_server_errors_total";
    page.head(name, "counter", "Error codes in answers, by API; a request may have many.");
    for (key, code, count) in state.metrics.errors() {
        let api = api(key).map_or("unknown", |api| api.name);
        let error = ErrorCode::try_from_code(code).map_or_else(String::new, |error| error.to_string());
        page.line(format_args!(
            "{name}{{{SYSTEM},messaging_operation_name=\"{api}\",error_type=\"{error}\"}} {count}"
        ));
    }
}

fn traffic(page: &mut Page, state: &State) {
    let metrics = &state.metrics;
    let name = "messaging_server_network_io_bytes_total";
    page.head(name, "counter", "Bytes of requests received and answers transmitted.");
    for (direction, counter) in [("receive", &metrics.bytes_in), ("transmit", &metrics.bytes_out)] {
        page.line(format_args!("{name}{{{SYSTEM},network_io_direction=\"{direction}\"}} {}", counter.get()));
    }
    page.counter(
        "messaging_server_received_messages_total",
        "Records accepted from producers, repeated ones included.",
        &metrics.records_in,
    );
    page.counter(
        "messaging_server_sent_messages_total",
        "Records in batches sent to consumers.",
        &metrics.records_out,
    );
    let open = metrics.connections_opened.get().saturating_sub(metrics.connections_closed.get());
    page.gauge("messaging_server_connections", "Kafka connections that are open.", open);
    page.counter(
        "messaging_server_connections_accepted_total",
        "Kafka connections that were accepted.",
        &metrics.connections_opened,
    );
    page.counter(
        "messaging_server_connections_refused_total",
        "Kafka connections closed at once because there were max.connections.",
        &metrics.connections_refused,
    );
    page.counter(
        "messaging_server_requests_refused_total",
        "Requests answered by closing the connection: malformed, unknown, or never finished.",
        &metrics.requests_refused,
    );
    page.counter(
        "messaging_server_answers_unread_total",
        "Kafka connections closed because their client did not read an answer.",
        &metrics.answers_unread,
    );
    page.counter("messaging_server_bugs_total", "Failures that are ours. Please report them.", &metrics.bugs);
}

/// What a budget is asked for one series.
type Gauge = fn(&Budget) -> u64;

/// How much of what there is is used, and who waits for it.
fn resources(page: &mut Page, state: &State) {
    let (broker, metrics) = (&state.broker, &state.metrics);
    page.gauge(
        "messaging_server_memory_limit_bytes",
        "The whole memory budget: memory.budget.bytes, or less if the cgroup allows less.",
        broker.memory().limit_bytes() as u64,
    );
    let requests = broker.memory().requests();
    page.gauge(
        "messaging_server_memory_budget_used_bytes",
        "Bytes held by requests and answers in flight.",
        requests.used_bytes() as u64,
    );
    page.gauge(
        "messaging_server_memory_budget_limit_bytes",
        "The bytes that these may hold: queued.max.request.bytes, within the whole memory budget.",
        requests.limit_bytes() as u64,
    );
    let series: [(&str, &str, &str, Gauge); 5] = [
        ("used_bytes", "gauge", "Bytes held, by what for.", |budget| budget.used_bytes() as u64),
        ("limit_bytes", "gauge", "Bytes that may be held.", |budget| budget.limit_bytes() as u64),
        ("waiting", "gauge", "Who waits for bytes now.", |budget| budget.pressure().waiting),
        ("waits_total", "counter", "How often somebody had to wait for bytes.", |budget| {
            budget.pressure().waited
        }),
        ("refusals_total", "counter", "How often somebody got none and did not wait.", |budget| {
            budget.pressure().refused
        }),
    ];
    let kinds = state.memory.kinds().into_iter().chain([
        ("decompression", broker.memory().decompression()),
        ("recompression", broker.memory().recompression()),
        ("fetch_sessions", broker.memory().fetch_sessions()),
    ]);
    let kinds: Vec<_> = kinds.collect();
    for (name, kind, help, measure) in series {
        let name = format!("messaging_server_memory_share_{name}");
        page.head(&name, kind, help);
        for (share, budget) in &kinds {
            page.line(format_args!("{name}{{share=\"{share}\"}} {}", measure(budget)));
        }
    }
    page.counter(
        "messaging_server_requests_without_memory_total",
        "Requests refused because they are larger than all the memory that there can be for one.",
        &metrics.requests_without_memory,
    );
    page.counter(
        "messaging_server_fetches_without_memory_total",
        "Fetches answered without records, and told to wait, for want of memory.",
        &metrics.fetches_without_memory,
    );
    page.counter(
        "messaging_server_accepts_failed_total",
        "Connections that the operating system did not give, most often for want of files.",
        &metrics.accepts_failed,
    );
    let files = broker.file_counts();
    page.gauge("messaging_server_log_files_open", "Files of the log that are open.", files.open as u64);
    page.gauge(
        "messaging_server_log_files_open_max",
        "How many may be: log.open.files.max.",
        files.open_max as u64,
    );
    page.head(
        "messaging_server_log_files_reopened_total",
        "counter",
        "Files of the log that were opened again.",
    );
    page.line(format_args!("messaging_server_log_files_reopened_total {}", files.reopened));
    page.head(
        "messaging_server_log_queue_waits_total",
        "counter",
        "Appends that waited for a place in the log's queue.",
    );
    page.line(format_args!("messaging_server_log_queue_waits_total {}", broker.queue_waits()));
}

fn maintenance(page: &mut Page, state: &State) {
    let done = state.broker.maintained();
    let series = [
        (
            "messaging_log_segments_removed_total",
            "Segments that retention and DeleteRecords removed, and that compaction merged into others.",
            done.segments_removed,
        ),
        (
            "messaging_log_reclaimed_bytes_total",
            "Bytes that retention, DeleteRecords and compaction gave back.",
            done.bytes_reclaimed,
        ),
        (
            "messaging_log_compaction_passes_total",
            "Passes of compaction that came to their end.",
            done.compaction_passes,
        ),
        (
            "messaging_log_compacted_messages_total",
            "Records that compaction removed, because a newer one has their key.",
            done.records_compacted,
        ),
        (
            "messaging_log_compacted_keyless_messages_total",
            "Of those, records that had no key.",
            done.keyless_records_compacted,
        ),
        (
            "messaging_log_maintenance_failures_total",
            "Partitions that retention or compaction could not look after in a round.",
            done.failures,
        ),
    ];
    for (name, help, value) in series {
        page.head(name, "counter", help);
        page.line(format_args!("{name} {value}"));
    }
}

/// What a partition is asked for one series.
type Measure = fn(&Partition) -> u64;

fn partitions(page: &mut Page, state: &State) {
    let topics = state.broker.topics();
    let all = topics.iter().map(|topic| topic.partitions().len()).sum::<usize>();
    let limit = state.limits.metrics_partitions_max;
    page.gauge(
        "messaging_server_partitions_omitted",
        "Partitions that have no series here, because there are too many.",
        all.saturating_sub(limit) as u64,
    );
    let series: [(&str, &str, Measure); 4] = [
        ("messaging_partition_log_start_offset", "The oldest record that is kept.", |partition| {
            partition.offsets().log_start.0.unsigned_abs()
        }),
        ("messaging_partition_log_end_offset", "After the newest record.", |partition| {
            partition.offsets().log_end.0.unsigned_abs()
        }),
        ("messaging_partition_size_bytes", "Bytes of the log's segments.", Partition::size_bytes),
        ("messaging_partition_online", "1, or 0 if it stopped at a fault.", |partition| {
            u64::from(matches!(partition.status(), LogStatus::Online))
        }),
    ];
    for (name, help, measure) in series {
        page.head(name, "gauge", help);
        let listed = topics.iter().flat_map(|topic| topic.partitions()).take(limit);
        for partition in listed {
            // Topic names have no character that would need escaping.
            let (topic, number) = (&partition.id().topic, partition.id().partition);
            page.line(format_args!(
                "{name}{{messaging_destination_name=\"{topic}\",messaging_destination_partition_id=\"{number}\"}} {}",
                measure(partition)
            ));
        }
    }
}
