//! The HTTP door.

use anabranch_wire::messages::MetadataRequest;
use anabranch_wire::messages::metadata_request::MetadataRequestTopic;

use crate::client::{Node, batch, http_get, topic};

#[tokio::test]
async fn health_readiness_and_nothing_else() {
    let node = Node::start().await;
    let addr = node.server.http_addr().unwrap();
    assert_eq!(http_get(addr, "/healthz").await, ("HTTP/1.1 200 OK".into(), "ok\n".into()));
    assert_eq!(http_get(addr, "/readyz").await, ("HTTP/1.1 200 OK".into(), "ready\n".into()));
    assert_eq!(http_get(addr, "/").await.0, "HTTP/1.1 404 Not Found");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.create_topic("t", 2).await;
    client.produce("t", batch(&["a", "b"])).await;
    client.fetch("t", 0).await;
    let asked = MetadataRequestTopic::default().with_name(Some(topic("not there")));
    let request =
        MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(false);
    client.call(9, &request).await;
    for (series, value) in [
        ("messaging_server_received_messages_total", 2),
        ("messaging_server_sent_messages_total", 2),
        ("messaging_server_connections", 1),
        (
            "messaging_partition_log_end_offset{messaging_destination_name=\"t\",messaging_destination_partition_id=\"0\"}",
            2,
        ),
        (
            "messaging_partition_log_end_offset{messaging_destination_name=\"t\",messaging_destination_partition_id=\"1\"}",
            0,
        ),
        (
            "messaging_partition_online{messaging_destination_name=\"t\",messaging_destination_partition_id=\"1\"}",
            1,
        ),
        (
            "messaging_server_request_duration_seconds_count{messaging_system=\"kafka\",messaging_operation_name=\"Produce\"}",
            1,
        ),
        (
            "messaging_server_errors_total{messaging_system=\"kafka\",messaging_operation_name=\"Metadata\",error_type=\"InvalidTopicException\"}",
            1,
        ),
        ("messaging_server_memory_budget_used_bytes", 0),
    ] {
        assert_eq!(node.metric(series).await, value, "{series}");
    }
    drop(client);
    node.metric_becomes("messaging_server_connections", |open| open == 0).await;
}

/// What a scraper reads: every line is a comment, or a name, labels and a number; and no series comes twice.
#[tokio::test]
async fn the_page_is_well_formed() {
    let node = Node::start().await;
    node.connect().await.create_topic("t", 1).await;
    let page = http_get(node.server.http_addr().unwrap(), "/metrics").await.1;
    let mut seen = std::collections::HashSet::new();
    for line in page.lines().filter(|line| !line.starts_with("# ")) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        assert!(seen.insert(series), "{series}");
        let name = series.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(
            [Some(name), base].into_iter().flatten().any(|name| page.contains(&format!("# TYPE {name} "))),
            "{name}"
        );
    }
    assert!(seen.len() > 300);
}
