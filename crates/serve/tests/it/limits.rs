//! Every limit, and the way out.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::seam::{Disk, DiskFile, Entry, Lock, Open, RealDisk};
use anabranch_serve::Limits;
use anabranch_wire::messages::{FetchRequest, JoinGroupRequest, MetadataRequest, ProduceRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::client::{Client, Node, RECEIVED, SOON, api_versions, batch, fetch, frame, produce, topic};

const BUDGET_USED: &str = "messaging_server_memory_budget_used_bytes";

/// Held by the test that measures this process's memory, and by those that use much of it.
static RESIDENT: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let node = Node::with(Limits { connections_max: 2, ..Limits::default() }, &[]).await;
    let (mut one, mut two) = (node.connect().await, node.connect().await);
    for client in [&mut one, &mut two] {
        client.call(4, &api_versions()).await;
    }
    node.connect().await.ends().await;
    assert_eq!(node.metric("messaging_server_connections_refused_total").await, 1);
    drop(one);
    node.metric_becomes("messaging_server_connections", |open| open == 1).await;
    assert_eq!(node.connect().await.call(4, &api_versions()).await.error_code, 0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_waiting_one_is_not() {
    let node = Node::with(Limits { idle_max: Duration::from_millis(100), ..Limits::default() }, &[]).await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    // This takes longer than an idle connection lives.
    let request = fetch("t", &[(0, 0)]).with_max_wait_ms(300);
    assert_eq!(client.call(12, &request).await.responses[0].partitions[0].error_code, 0);
    client.ends().await;
}

/// While the budget is spent, requests are not read; when it is free again, they are served.
#[tokio::test]
async fn a_spent_budget_holds_requests_back() {
    let node = Node::with(Limits::default(), &[("queued.max.request.bytes", "1048576")]).await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let everything = node.broker.memory().requests().acquire(1 << 20).await.unwrap();
    let id = client.send(9, &produce("t", 0, 1, batch(&["a"]))).await;
    let waited = timeout(Duration::from_millis(100), client.stream.peek(&mut [0])).await;
    assert!(waited.is_err(), "nothing is answered without memory");
    drop(everything);
    let response = client.receive::<ProduceRequest>(9, id).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
}

/// The beginning of a frame that has more bytes than are read ahead of its memory.
fn half_frame(length_bytes: i32) -> Vec<u8> {
    let mut half = length_bytes.to_be_bytes().to_vec();
    half.resize(12 << 10, 0);
    half
}

/// A frame that has begun holds its permit; when its connection goes, the permit comes back.
#[tokio::test]
async fn a_begun_frame_holds_its_bytes_until_its_connection_goes() {
    let node = Node::start().await;
    let mut client = node.connect().await;
    client.stream.write_all(&half_frame(50 << 20)).await.unwrap();
    node.metric_becomes(BUDGET_USED, |used| used == 50 << 20).await;
    drop(client);
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
}

/// Two thousand sockets, each with a length and nothing after it, took the whole budget in the order in which they came. No
/// other request was answered, not even one that needs no memory, until they were given up one after the other.
#[tokio::test]
async fn half_frames_hold_back_frames_of_their_kind_alone() {
    let node = Node::with(Limits::default(), &[("queued.max.request.bytes", "4194304")]).await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let mut halves = Vec::new();
    for number in 0..64 {
        let mut half = node.connect().await;
        let sent = if number % 2 == 0 { half_frame(300 << 10) } else { half_frame(300 << 10)[..4].to_vec() };
        half.stream.write_all(&sent).await.unwrap();
        halves.push(half);
    }
    // A quarter of the budget has room for three; the others wait for these, and a length alone takes nothing.
    const HELD: u64 = 3 * (300 << 10);
    node.metric_becomes(BUDGET_USED, |used| used == HELD).await;
    assert_eq!(node.connect().await.call(4, &api_versions()).await.error_code, 0);
    assert_eq!(client.produce("t", batch(&["a"])).await.error_code, 0);
    let found = client.fetch("t", 0).await;
    assert_eq!(found.records.as_ref().map(bytes::Bytes::len), Some(batch(&["a"]).len()));
    node.metric_becomes(BUDGET_USED, |used| used == HELD).await;
    drop(halves);
    let large = batch(&[&"x".repeat(600_000)]);
    assert_eq!(client.produce("t", large).await.error_code, 0, "the share comes back");
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
}

/// A large frame that came slowly had the whole share of frames that are not whole: nobody else could send one of more than
/// a few kilobytes until it was there. Now it waits for others of its size, and for nobody else.
#[tokio::test]
async fn a_large_frame_holds_back_large_frames_alone() {
    let node = Node::with(Limits::default(), &[("queued.max.request.bytes", "4194304")]).await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let mut slow = node.connect().await;
    slow.stream.write_all(&half_frame(2 << 20)).await.unwrap();
    node.metric_becomes(BUDGET_USED, |used| used == 2 << 20).await;
    assert_eq!(
        client.produce("t", batch(&[&"x".repeat(400_000)])).await.error_code,
        0,
        "there is room beside"
    );
    let found = client.fetch("t", 0).await;
    assert!(found.records.is_some_and(|records| records.len() > 400_000));
    let id = client.send(9, &produce("t", 0, 1, batch(&[&"x".repeat(900_000)]))).await;
    let waited = timeout(Duration::from_millis(100), client.stream.peek(&mut [0])).await;
    assert!(waited.is_err(), "two large ones do not fit");
    assert_eq!(node.metric("messaging_server_memory_share_waiting{share=\"large\"}").await, 1);
    drop(slow);
    let response = client.receive::<ProduceRequest>(9, id).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    assert!(response.throttle_time_ms >= 100, "it says for how long it was held back");
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
}

/// Whoever holds memory must not hold it for ever by sending a byte now and then.
#[tokio::test]
async fn a_frame_that_trickles_is_cut_off() {
    let limits = Limits { frame_stall_max: Duration::from_millis(300), ..Limits::default() };
    let node = Node::with(limits, &[]).await;
    let mut client = node.connect().await;
    client.stream.write_all(&half_frame(20 << 10)).await.unwrap();
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await; // each byte is in time, and the frame is not
            if client.stream.write_all(&[0]).await.is_err() {
                return;
            }
        }
    };
    timeout(SOON, trickle).await.expect("the connection is closed");
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
}

/// Its producer would try for ever if the connection were closed.
#[tokio::test]
async fn a_batch_for_which_there_can_never_be_memory_is_refused_by_name() {
    const MESSAGE_TOO_LARGE: i16 = 10;
    let settings = [("queued.max.request.bytes", "1048576"), ("message.max.bytes", "10000000")];
    let node = Node::with(Limits::default(), &settings).await;
    let mut client = node.connect().await;
    client.create_topic("t", 2).await;
    let topics = client.call(12, &MetadataRequest::default().with_topics(None)).await.topics;
    let id = topics.iter().find(|found| found.name == Some(topic("t"))).map(|found| found.topic_id);
    let large = batch(&[&"x".repeat(1_500_000)]);
    for version in 3..=13 {
        let mut request = produce("t", 0, -1, large.clone());
        let second = request.topic_data[0].partition_data[0].clone().with_index(1);
        request.topic_data[0].partition_data.push(second.with_records(Some(batch(&["small"]))));
        if version >= 13 {
            request.topic_data[0].name = topic("");
            request.topic_data[0].topic_id = id.unwrap();
        }
        let response = client.call(version, &request).await;
        assert_eq!(response.responses[0].topic_id.is_nil(), version < 13);
        for (index, partition) in response.responses[0].partition_responses.iter().enumerate() {
            assert_eq!(
                (partition.index, partition.error_code),
                (index as i32, MESSAGE_TOO_LARGE),
                "{version}"
            );
            let told =
                partition.error_message.as_ref().is_some_and(|why| why.contains("memory.budget.bytes"));
            assert_eq!(told, version >= 8);
        }
        assert_eq!(client.produce("t", batch(&["a"])).await.error_code, 0, "the connection goes on");
    }
    assert_eq!(node.metric("messaging_server_requests_without_memory_total").await, 11);
    client.send(9, &produce("t", 0, 0, large)).await;
    client.ends().await;
    node.metric_becomes("messaging_server_memory_share_used_bytes{share=\"read_ahead\"}", |used| used == 0)
        .await;
}

/// A disk whose syncs wait while they are held.
#[derive(Debug, Default)]
pub(crate) struct HeldDisk {
    held: Arc<(parking_lot::Mutex<bool>, parking_lot::Condvar)>,
}

impl HeldDisk {
    fn hold(&self, held: bool) {
        *self.held.0.lock() = held;
        self.held.1.notify_all();
    }
}

struct Release(Arc<HeldDisk>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.hold(false);
    }
}

#[derive(Debug)]
struct HeldFile(Arc<dyn DiskFile>, Arc<(parking_lot::Mutex<bool>, parking_lot::Condvar)>);

impl DiskFile for HeldFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(into, position)
    }

    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()> {
        self.0.write_all_at(parts, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut held = self.1.0.lock();
        while *held {
            self.1.1.wait(&mut held);
        }
        drop(held);
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

impl Disk for HeldDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HeldFile(RealDisk.open(path, how)?, Arc::clone(&self.held))))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        RealDisk.try_lock(path)
    }
}

/// A batch that waited for the writer was in memory and in nobody's budget once its connection was gone: whoever connected,
/// sent and hung up could fill the memory while the disk was slow.
#[tokio::test]
async fn batches_that_wait_for_the_disk_are_in_the_budget_though_their_connections_are_gone() {
    let disk = Arc::new(HeldDisk::default());
    let node = Node::on(Arc::clone(&disk) as Arc<dyn Disk>, Limits::default(), &[]).await;
    node.connect().await.create_topic("t", 1).await;
    disk.hold(true);
    // Without this, a test that fails would wait for the disk for ever.
    let _release = Release(Arc::clone(&disk));
    for number in 0..4_u64 {
        let before = node.metric(RECEIVED).await;
        let mut client = node.connect().await;
        client.send(9, &produce("t", 0, -1, batch(&[&"x".repeat(500_000)]))).await;
        node.metric_becomes(RECEIVED, |bytes| bytes > before + 500_000).await;
        // What is no request ends the connection at once.
        client.stream.write_all(&[0, 0, 0, 4, 0x7f, 0xff, 0, 0]).await.unwrap();
        if number == 0 {
            // Written, and without its bytes. Its sync is under way, and the others wait behind it.
            let log = node.broker.topic("t").unwrap().partition(0).unwrap().clone();
            let written = async {
                while log.offsets().log_end.0 == 0 {
                    tokio::task::yield_now().await;
                }
            };
            timeout(SOON, written).await.expect("the writer writes");
        }
        node.metric_becomes(BUDGET_USED, |used| used >= number * 500_000).await;
    }
    node.metric_becomes("messaging_server_connections", |open| open == 0).await;
    let used = node.metric(BUDGET_USED).await;
    assert!(used > 3 * 500_000, "{used} bytes for three batches that wait");
    disk.hold(false);
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
    assert_eq!(node.broker.topic("t").unwrap().partition(0).unwrap().offsets().log_end.0, 4);
}

/// The first batch of a fetch comes whole, however little was asked for (KIP-74), and its memory was not counted: a client
/// that asked for a megabyte was given a hundred, outside of the budget. Now it comes through whatever buffer there is.
#[tokio::test]
async fn a_batch_larger_than_asked_for_takes_no_more_memory_than_any_other() {
    const LARGE: usize = 9_000_000;
    const HELD: usize = 30 << 20;
    let settings = [("queued.max.request.bytes", "33554432"), ("message.max.bytes", "20000000")];
    let node = Node::with(Limits::default(), &settings).await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let large = batch(&[&"x".repeat(LARGE)]);
    assert_eq!(client.produce("t", large.clone()).await.error_code, 0);
    assert_eq!(client.produce("t", batch(&["small"])).await.error_code, 0);
    let held = node.broker.memory().requests().acquire(HELD).await.unwrap();
    let id = client.send(12, &fetch("t", &[(0, 0)])).await;
    timeout(SOON, client.stream.peek(&mut [0])).await.unwrap().unwrap(); // more than a socket takes
    let used = node.metric(BUDGET_USED).await;
    assert!(used > (HELD + 200_000) as u64 && used < (HELD + 600_000) as u64, "{used} bytes in all");
    let response = client.receive::<FetchRequest>(12, id).await;
    let records = response.responses[0].partitions[0].records.clone().unwrap();
    assert_eq!(records.len(), large.len(), "and nothing behind it");
    assert!(records[16..] == large[16..]);
    drop(held);
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
}

/// The budget was made smaller than what was written before.
#[tokio::test]
async fn a_batch_that_is_larger_than_all_memory_comes() {
    let message = [("message.max.bytes", "20000000")];
    let node = Node::with(Limits::default(), &message).await;
    let mut client = node.connect().await;
    client.create_topic("t", 2).await;
    let large = batch(&[&"x".repeat(3_000_000)]);
    assert_eq!(client.produce("t", large.clone()).await.error_code, 0);
    let small = produce("t", 1, -1, batch(&["small"]));
    client.call(9, &small).await;
    node.server.shutdown().await;
    node.broker.close().await;
    let node = Node::over(node._dir, Limits::default(), &[("queued.max.request.bytes", "1048576")]).await;
    let mut client = node.connect().await;
    let response = client.call(12, &fetch("t", &[(0, 0), (1, 0)])).await;
    let found = &response.responses[0].partitions;
    assert!(found[0].records.as_ref().unwrap()[16..] == large[16..]);
    assert_eq!(found[1].records.as_ref().unwrap().len(), batch(&["small"]).len());
}

/// Five consumers that asked for 50 MiB each and read nothing held all the memory that there is for answers, for as long as
/// a connection may be idle: ten minutes, in which every other consumer was told that there is nothing.
#[tokio::test]
async fn who_does_not_read_leaves_something_to_others_and_is_cut_off() {
    let _alone = RESIDENT.lock().await;
    let limits = Limits { answer_stall_max: Duration::from_secs(5), ..Limits::default() };
    let node = Node::with(limits, &[("queued.max.request.bytes", "268435456")]).await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let value = "x".repeat(1_000_000);
    for _ in 0..40 {
        assert_eq!(client.produce("t", batch(&[&value])).await.error_code, 0);
    }
    let mut whole = fetch("t", &[(0, 0)]);
    whole.topics[0].partitions[0].partition_max_bytes = 50 << 20;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = node.connect().await;
        client.send(12, &whole).await;
        timeout(SOON, client.stream.peek(&mut [0])).await.unwrap().unwrap(); // its answer is on its way
        slow.push(client);
    }
    // Each has one buffer, however much it asked for.
    node.metric_becomes(BUDGET_USED, |used| used > 8 * 900_000 && used < 8 * (2 << 20)).await;
    let found = client.call(12, &whole).await;
    let records = found.responses[0].partitions[0].records.as_ref().map_or(0, bytes::Bytes::len);
    assert!(records > 39_000_000, "{records} bytes while others do not read");
    node.metric_becomes("messaging_server_answers_unread_total", |cut_off| cut_off == 8).await;
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
    drop(slow);
}

/// A client that asks and does not read holds one answer, however much it asks for; others do not notice.
#[tokio::test]
async fn a_slow_reader_stalls_itself_alone() {
    let _alone = RESIDENT.lock().await;
    let node = Node::with(Limits::default(), &[("queued.max.request.bytes", "536870912")]).await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let value = "x".repeat(900_000);
    for _ in 0..20 {
        assert_eq!(client.produce("t", batch(&[&value])).await.error_code, 0);
    }
    let mut slow = node.connect().await;
    let request = fetch("t", &[(0, 0)]);
    let large = |mut request: FetchRequest| {
        request.topics[0].partitions[0].partition_max_bytes = 30 << 20;
        request
    };
    let request = large(request);
    let mut sent = Vec::new();
    for _ in 0..50 {
        sent.push(slow.send(12, &request).await);
    }
    // One answer of 18 MB is on its way, which no socket buffer takes; no second is made. It has a buffer.
    node.metric_becomes(BUDGET_USED, |used| used > 900_000 && used < 3 << 19).await;
    let one_answer = node.metric(BUDGET_USED).await;
    let mut other = node.connect().await;
    for _ in 0..20 {
        assert_eq!(other.fetch("t", 0).await.error_code, 0);
        assert!(node.metric(BUDGET_USED).await < one_answer + (2 << 20));
    }
    // And when it reads, it gets everything, in order.
    for id in sent.drain(..3) {
        let response = slow.receive::<FetchRequest>(12, id).await;
        assert_eq!(
            response.responses[0].partitions[0].records.as_ref().unwrap().len(),
            20 * batch(&[&value]).len()
        );
    }
    drop(slow);
    node.metric_becomes(BUDGET_USED, |used| used == 0).await;
}

/// Answers leave a part of the budget to requests, so that consumers cannot keep producers out, and to each other. They need
/// little, and are none without.
#[tokio::test]
async fn fetches_are_whole_with_little_memory_and_wait_without() {
    const BUDGET: usize = 64 << 20;
    let node = Node::with(Limits::default(), &[("queued.max.request.bytes", "67108864")]).await;
    let mut client = node.connect().await;
    client.create_topic("t", 1).await;
    let value = "x".repeat(500_000);
    for _ in 0..10 {
        assert_eq!(client.produce("t", batch(&[&value])).await.error_code, 0);
    }
    let one = batch(&[&value]).len();
    let mut whole = fetch("t", &[(0, 0)]);
    whole.topics[0].partitions[0].partition_max_bytes = 10 << 20;
    let got = async |client: &mut Client| {
        let response = client.call(12, &whole).await;
        response.responses[0].partitions[0].records.as_ref().unwrap().len() / one
    };
    assert_eq!(got(&mut client).await, 10);
    let held = node.broker.memory().requests().acquire(BUDGET - (16 << 20)).await.unwrap();
    assert_eq!(got(&mut client).await, 10);
    let more = node.broker.memory().requests().acquire(14 << 20).await.unwrap();
    assert_eq!(got(&mut client).await, 10, "2 MiB are left");
    let rest = node.broker.memory().requests().acquire((2 << 20) - (200 << 10)).await.unwrap();
    let began = std::time::Instant::now();
    let response = client.call(12, &whole).await;
    assert_eq!(
        response.responses[0].partitions[0].records,
        Some(bytes::Bytes::new()),
        "an answer without records"
    );
    assert_eq!(response.throttle_time_ms, 100, "it says how long to wait");
    assert_eq!(got(&mut client).await, 0);
    assert!(began.elapsed() >= Duration::from_millis(100), "and until then the connection was not read");
    assert_eq!(node.metric("messaging_server_fetches_without_memory_total").await, 2);
    drop((held, more, rest));
    assert_eq!(got(&mut client).await, 10);
}

#[tokio::test]
async fn shutdown_under_load_answers_what_was_taken_and_loses_nothing() {
    let node = Node::start().await;
    let mut admin = node.connect().await;
    admin.create_topic("t", 4).await;
    let addr = node.server.kafka_addr();
    let mut producers = tokio::task::JoinSet::new();
    for partition in 0..4 {
        producers.spawn(async move {
            let mut client = Client::connect(addr).await;
            let mut acknowledged = 0;
            loop {
                let request = frame(9, 1, &produce("t", partition, -1, batch(&["v"])));
                if client.stream.write_all(&request).await.is_err() {
                    return (partition, acknowledged);
                }
                match client.frame().await {
                    Some(_) => acknowledged += 1,
                    None => return (partition, acknowledged),
                }
            }
        });
    }
    // A consumer that waits for a minute does not hold the shutdown up.
    let mut consumer = node.connect().await;
    let waiting = consumer.send(12, &fetch("t", &[(0, 1 << 40)]).with_max_wait_ms(60_000)).await;
    consumer.receive::<FetchRequest>(12, waiting).await; // out of range, at once
    admin.create_topic("quiet", 1).await;
    let waiting = consumer.send(12, &fetch("quiet", &[(0, 0)]).with_max_wait_ms(60_000)).await;
    let produced = "messaging_server_received_messages_total";
    node.metric_becomes(produced, |records| records > 20).await;
    let Node { broker, server, _dir, .. } = node;
    timeout(SOON, server.shutdown()).await.expect("a shutdown ends");
    let answer = consumer.receive::<FetchRequest>(12, waiting).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, 0);
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
    let mut all = 0;
    while let Some(ended) = producers.join_next().await {
        let (partition, acknowledged) = ended.unwrap();
        let written = broker.topic("t").unwrap().partition(partition).unwrap().offsets().high_watermark.0;
        assert!(written >= acknowledged, "acknowledged {acknowledged}, written {written}");
        assert!(written <= acknowledged + 1);
        all += acknowledged;
    }
    assert!(all > 20);
    broker.close().await;
}

/// Requests that wait for something else than the disk are answered at once, whether the server is shut down or dropped.
#[tokio::test]
async fn who_waits_for_others_is_told_that_the_door_closes() {
    for dropped in [true, false] {
        let node = Node::start().await;
        let mut consumer = node.connect().await;
        consumer.create_topic("t", 1).await;
        let mut member = node.connect().await;
        let first = crate::groups::first_join(&mut member).await;
        assert_eq!(member.call(9, &crate::groups::join(&first)).await.error_code, 0);
        let mut other = node.connect().await;
        let second = crate::groups::first_join(&mut other).await;
        let before = node.metric(RECEIVED).await;
        let fetching = consumer.send(12, &fetch("t", &[(0, 0)]).with_max_wait_ms(600_000)).await;
        node.metric_becomes(RECEIVED, |bytes| bytes > before).await;
        let before = node.metric(RECEIVED).await;
        let joining = other.send(9, &crate::groups::join(&second)).await;
        node.metric_becomes(RECEIVED, |bytes| bytes > before).await;
        let Node { server, .. } = node;
        if dropped {
            drop(server);
        } else {
            timeout(SOON, server.shutdown()).await.expect("a shutdown ends");
        }
        let fetched = consumer.receive::<FetchRequest>(12, fetching).await;
        assert_eq!(fetched.responses[0].partitions[0].error_code, 0);
        const COORDINATOR_NOT_AVAILABLE: i16 = 15;
        assert_eq!(other.receive::<JoinGroupRequest>(9, joining).await.error_code, COORDINATOR_NOT_AVAILABLE);
    }
}

#[tokio::test]
async fn a_shutdown_cuts_off_who_would_wait_longer() {
    let node = Node::with(Limits { shutdown_max: Duration::from_millis(50), ..Limits::default() }, &[]).await;
    let addr = node.server.kafka_addr();
    let mut half = TcpStream::connect(addr).await.unwrap();
    half.write_all(&[0, 0]).await.unwrap();
    node.metric_becomes("messaging_server_connections", |open| open == 1).await;
    timeout(SOON, node.server.shutdown()).await.expect("a shutdown ends");
    assert_eq!(half.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

/// An idle connection costs a socket and little else.
#[tokio::test]
async fn two_thousand_idle_connections() {
    const CONNECTIONS: u64 = 2_000;
    // Both ends are in this process.
    let wanted = 2 * CONNECTIONS + 500;
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if files.current.is_some_and(|current| current < wanted) {
        files.current = Some(files.maximum.unwrap_or(wanted).min(wanted));
        let raised = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
        if raised.is_err() || files.current < Some(wanted) {
            println!("skipped: {wanted} open files are needed, and the limit is {files:?}");
            return;
        }
    }
    let node = Node::start().await;
    let _alone = RESIDENT.lock().await;
    let before = resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = node.connect().await;
        client.send(4, &api_versions()).await;
        clients.push(client);
    }
    for client in &mut clients {
        client.frame().await.unwrap();
    }
    assert_eq!(node.metric("messaging_server_connections").await, CONNECTIONS);
    assert_eq!(node.metric(BUDGET_USED).await, 0);
    let each = resident_bytes().saturating_sub(before) / CONNECTIONS;
    assert!(each < 24 * 1024, "{each} bytes for each idle connection, both ends");
    let mut last = clients.pop().unwrap();
    last.create_topic("t", 1).await;
    assert_eq!(last.produce("t", batch(&["a"])).await.error_code, 0);
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
