//! A producer that does as little as one can: requests that are ready beforehand, over many connections, from one thread
//! that waits for all of them at once.
//!
//! As fast as possible, each connection keeps so many requests in flight; a request's latency is from its first byte to
//! its answer. At a rate, requests are due at fixed times, and the latency is from there, so that a server that falls
//! behind is not spared the requests that it kept from being sent ("coordinated omission").

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::num::NonZero;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{Timespec, epoll};
use serde::Serialize;

use crate::latency::{Latencies, Latency, cpu_seconds};
use crate::request::{Acks, Codec, ProduceFrame, batch, check_produced};

/// After the end, requests in flight have so long to be answered.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// A server that is so slow that fewer requests are answered in the time is given more of it, but not for ever.
const REQUESTS_MIN: u64 = 20;
const MORE_TIME: Duration = Duration::from_millis(100);
const MORE_TIME_MAX: Duration = Duration::from_secs(30);

/// What is read from a connection at a time: many answers.
const READ_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    pub(crate) bootstrap: String,
    #[arg(long)]
    pub(crate) topic: String,
    #[arg(long, default_value_t = 1)]
    pub(crate) partitions: u32,
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: u32,
    /// Requests that a connection has in flight
    #[arg(long, default_value_t = 5)]
    pub(crate) in_flight: usize,
    #[arg(long, default_value_t = 1024)]
    pub(crate) record_bytes: usize,
    /// Records in a batch
    #[arg(long, default_value_t = 16)]
    pub(crate) batch_records: usize,
    /// Batches in a request, each for another partition
    #[arg(long, default_value_t = 1)]
    pub(crate) batches: usize,
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) acks: Acks,
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) codec: Codec,
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Seconds before those, which are not counted
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warm_up: f64,
    /// Records per second, all connections together; as fast as possible without it
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// End earlier, when so many bytes are sent
    #[arg(long)]
    pub(crate) bytes_max: Option<u64>,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Produced {
    pub(crate) records_per_second: f64,
    /// Of values, before compression.
    pub(crate) mib_per_second: f64,
    /// Of one request, in microseconds.
    pub(crate) latency_us: Latency,
    /// All that were acknowledged, those that were not counted included: what the server worked for.
    pub(crate) records_total: u64,
    pub(crate) requests_total: u64,
    /// Of one request, as sent.
    pub(crate) request_bytes: usize,
    pub(crate) client_cpu_seconds: f64,
}

/// When what is counted.
#[derive(Debug, Clone, Copy)]
struct Plan {
    counted_from: Instant,
    end: Instant,
    /// Between two requests of one connection, at a rate.
    interval: Option<Duration>,
    in_flight: usize,
    partitions: u32,
    requests_max: u64,
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    frame: ProduceFrame,
    /// Bytes of the frame that are sent; all of them when none is on its way.
    sent: usize,
    is_blocked: bool,
    correlation: i32,
    next_partition: u32,
    /// When the next is due, at a rate.
    due: Instant,
    /// When the requests in flight began, the oldest first.
    waiting: VecDeque<Instant>,
    input: Vec<u8>,
}

#[derive(Debug)]
struct Tally {
    latencies: Latencies,
    requests_counted: u64,
    requests_total: u64,
    /// When counting ended: later than planned with a slow server, earlier when so many bytes were enough.
    end: Instant,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Produced> {
    let batches = options.batches.min(options.partitions as usize);
    ensure!(batches > 0 && options.connections > 0 && options.in_flight > 0, "nothing to send");
    let batch = batch(options.batch_records, options.record_bytes, options.codec)?;
    let frame = ProduceFrame::new(&options.topic, options.acks, &batch, batches)?;
    let request_records = (batches * options.batch_records) as f64;
    // Otherwise Linux wakes us up to 50 µs late.
    rustix::thread::set_current_timer_slack(NonZero::new(1))?;

    let start = Instant::now();
    let interval = options
        .rate
        .map(|rate| Duration::from_secs_f64(request_records * f64::from(options.connections) / rate));
    let plan = Plan {
        counted_from: start + Duration::from_secs_f64(options.warm_up),
        end: start + Duration::from_secs_f64(options.warm_up + options.seconds),
        interval,
        in_flight: options.in_flight,
        partitions: options.partitions,
        requests_max: options.bytes_max.map_or(u64::MAX, |bytes| bytes / frame.bytes().len() as u64),
    };
    let mut links = Vec::new();
    for number in 0..options.connections {
        let stream = TcpStream::connect(&options.bootstrap)
            .with_context(|| format!("connecting to {}", options.bootstrap))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let share = f64::from(number) / f64::from(options.connections);
        links.push(Link {
            stream,
            sent: frame.bytes().len(),
            frame: frame.clone(),
            is_blocked: false,
            correlation: 0,
            next_partition: (share * f64::from(options.partitions)) as u32,
            due: start + interval.unwrap_or_default().mul_f64(share),
            waiting: VecDeque::with_capacity(options.in_flight),
            input: Vec::new(),
        });
    }
    let tally = exchange(&mut links, plan)?;
    let counted = tally.end.saturating_duration_since(plan.counted_from);
    let rate = tally.requests_counted as f64 * request_records / counted.as_secs_f64();
    Ok(Produced {
        records_per_second: rate,
        mib_per_second: rate * options.record_bytes as f64 / f64::from(1 << 20),
        latency_us: tally.latencies.summary(),
        records_total: tally.requests_total * request_records as u64,
        requests_total: tally.requests_total,
        request_bytes: frame.bytes().len(),
        client_cpu_seconds: cpu_seconds(),
    })
}

/// Sends and receives until the end, and then receives what is still on its way.
fn exchange(links: &mut [Link], mut plan: Plan) -> anyhow::Result<Tally> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, link) in (0..).zip(&*links) {
        epoll::add(&poll, &link.stream, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
    }
    let mut tally =
        Tally { latencies: Latencies::new(), requests_counted: 0, requests_total: 0, end: plan.end };
    let more_until = plan.end + MORE_TIME_MAX;
    let mut scratch = vec![0; READ_BYTES];
    let mut events = Vec::with_capacity(links.len());
    loop {
        let now = Instant::now();
        let in_flight: usize = links.iter().map(|link| link.waiting.len()).sum();
        if tally.requests_total + in_flight as u64 >= plan.requests_max {
            plan.end = plan.end.min(now);
        } else if now >= plan.end && tally.requests_counted < REQUESTS_MIN && now < more_until {
            plan.end = now + MORE_TIME;
        }
        tally.end = plan.end;
        if now >= plan.end && links.iter().all(|link| link.waiting.is_empty()) {
            ensure!(tally.requests_counted > 0, "nothing was answered in the time that counts");
            return Ok(tally);
        }
        ensure!(now < plan.end + DRAIN_MAX, "requests are not answered within {} s", DRAIN_MAX.as_secs());
        let mut wake = if now < plan.end { plan.end } else { plan.end + DRAIN_MAX };
        for (number, link) in (0..).zip(&mut *links) {
            let was_blocked = link.is_blocked;
            link.send(plan)?;
            if link.is_blocked != was_blocked {
                let mut flags = epoll::EventFlags::IN;
                flags.set(epoll::EventFlags::OUT, link.is_blocked);
                epoll::modify(&poll, &link.stream, epoll::EventData::new_u64(number), flags)?;
            }
            if plan.interval.is_some() && link.waiting.len() < plan.in_flight && !link.is_blocked {
                wake = wake.min(link.due);
            }
        }
        let timeout = wake.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: timeout.as_secs().try_into()?, tv_nsec: timeout.subsec_nanos().into() };
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (flags, number) = (event.flags, usize::try_from(event.data.u64())?);
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                links[number].receive(&mut scratch, plan, &mut tally)?;
            }
        }
    }
}

impl Link {
    /// Sends what is due, as far as the socket takes it.
    fn send(&mut self, plan: Plan) -> anyhow::Result<()> {
        loop {
            while self.sent < self.frame.bytes().len() {
                match self.stream.write(&self.frame.bytes()[self.sent..]) {
                    Ok(0) => bail!("the server takes no more"),
                    Ok(count) => self.sent += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.is_blocked = true;
                        return Ok(());
                    }
                    Err(error) => return Err(error).context("sending a request"),
                }
            }
            self.is_blocked = false;
            let now = Instant::now();
            let begun = if plan.interval.is_some() { self.due } else { now };
            if now >= plan.end || begun > now || self.waiting.len() >= plan.in_flight {
                return Ok(());
            }
            self.due += plan.interval.unwrap_or_default();
            self.correlation = self.correlation.wrapping_add(1);
            self.frame.patch(self.correlation, self.next_partition, plan.partitions);
            self.next_partition = (self.next_partition + self.frame.batches() as u32) % plan.partitions;
            self.waiting.push_back(begun);
            self.sent = 0;
        }
    }

    /// Takes the answers that have come.
    fn receive(&mut self, scratch: &mut [u8], plan: Plan, tally: &mut Tally) -> anyhow::Result<()> {
        match self.stream.read(scratch) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => self.input.extend_from_slice(&scratch[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("receiving an answer"),
        }
        let now = Instant::now();
        let mut from = 0;
        while let Some((length, rest)) = self.input[from..].split_first_chunk() {
            let length = usize::try_from(i32::from_be_bytes(*length)).context("a negative length")?;
            let Some(answer) = rest.get(..length) else { break };
            let correlation = check_produced(answer, self.frame.batches())?;
            let begun = self.waiting.pop_front().context("an answer to nothing")?;
            let oldest = self.correlation.wrapping_sub(self.waiting.len() as i32);
            ensure!(correlation == oldest, "answer {correlation} to request {oldest}");
            tally.requests_total += 1;
            if now >= plan.counted_from && now < plan.end {
                tally.requests_counted += 1;
            }
            if begun >= plan.counted_from {
                tally.latencies.record(now.saturating_duration_since(begun));
            }
            from += 4 + length;
        }
        self.input.drain(..from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink;

    fn options(bootstrap: String) -> Options {
        Options {
            bootstrap,
            topic: "t".to_owned(),
            partitions: 4,
            connections: 3,
            in_flight: 2,
            record_bytes: 100,
            batch_records: 5,
            batches: 2,
            acks: Acks::All,
            codec: Codec::None,
            seconds: 0.3,
            warm_up: 0.0,
            rate: None,
            bytes_max: None,
        }
    }

    #[test]
    fn everything_that_is_sent_is_answered_and_counted() {
        let sink = sink::start(0, Duration::ZERO).unwrap();
        let produced = run(&options(sink.to_string())).unwrap();
        assert!(produced.requests_total > 0);
        assert_eq!(produced.records_total, produced.requests_total * 10);
        assert!(produced.latency_us.count <= produced.requests_total);
    }

    #[test]
    fn at_a_rate_requests_wait_for_their_time_and_the_wait_for_a_slow_server_counts() {
        let quick = sink::start(0, Duration::ZERO).unwrap();
        let paced = Options { rate: Some(1000.0), ..options(quick.to_string()) };
        let produced = run(&paced).unwrap();
        assert!(produced.requests_total <= 31, "{}", produced.requests_total);
        // 20 ms for each answer, one in flight, and a request due every 10 ms: the last waited for all before it.
        let slow = sink::start(0, Duration::from_millis(20)).unwrap();
        let late = Options { rate: Some(1000.0), connections: 1, in_flight: 1, ..options(slow.to_string()) };
        let produced = run(&late).unwrap();
        assert!(produced.latency_us.max > 100_000.0, "{:?}", produced.latency_us);
    }

    #[test]
    fn a_slow_server_is_given_the_time_that_it_takes() {
        let slow = sink::start(0, Duration::from_millis(50)).unwrap();
        let short = Options { connections: 1, in_flight: 1, seconds: 0.04, ..options(slow.to_string()) };
        let produced = run(&short).unwrap();
        assert!(produced.requests_total >= REQUESTS_MIN, "{}", produced.requests_total);
        // 20 requests of 10 records a second.
        assert!((100.0..=200.0).contains(&produced.records_per_second), "{}", produced.records_per_second);
    }
}
