//! Producers that come, go, fence each other and repeat themselves; writes that fail, markers that find no room, batches
//! that come late, clocks that jump, a coordinator that restarts after it lost what was not durable: from a seed, with what
//! must always hold checked after each step. The partitions are a model of the log's rules.

mod client;

use std::collections::{BTreeSet, HashMap};

use anabranch_core::seam::{Random, SeededRandom};

use super::*;
use crate::seeds;
use client::{Client, Identity, Phase};

const SEEDS: u64 = 60;
const STEPS: usize = 1500;
/// The rules by which the producers of each transactional id go.
const IDS: [(&str, TransactionVersion); 3] = [("old", V0), ("new", V2), ("last", V2)];
const CLIENTS: usize = 9;
const PARTITIONS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(20);
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How much longer than its timeout a transaction may last while the disk is slow and fails.
const FAULTS_MAX: Duration = Duration::from_secs(180);
const SEED_VARIABLE: &str = "ANABRANCH_TRANSACTION_SEED";

#[test]
fn whatever_happens_transactions_hold_together() {
    seeds::run(0..SEEDS, SEED_VARIABLE, "whatever_happens", 20, |seed| Simulation::new(seed).run());
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Asks {
    Init,
    Add(i32),
    /// Of a batch: whether it joined, and whether it is there, as far as it is known.
    Produce {
        batch: usize,
        joined: Option<bool>,
        written: Option<bool>,
    },
    End(usize, EndKind),
}

struct Outstanding {
    client: usize,
    id: usize,
    incarnation: u64,
    /// A newer incarnation was told before this was asked.
    is_fenced: bool,
    identity: Option<Identity>,
    partition: i32,
    asks: Asks,
}

#[derive(Debug, Clone)]
struct Append {
    request: RequestId,
    partition: usize,
    identity: Identity,
    ordinal: u64,
    batch: usize,
}

enum Queued {
    Store(Token, EncodedRecord),
    End(Token, EndTransaction),
    Append(Append),
}

/// What a partition knows of a producer.
#[derive(Debug, Default, Clone)]
struct Known {
    epoch: ProducerEpoch,
    /// The ordinal of the newest transaction that has ended here. Lost in a crash.
    ended: u64,
    /// The epoch of the transaction that is open.
    open: Option<ProducerEpoch>,
    batches: Vec<usize>,
}

struct Batch {
    transaction: usize,
    fate: Option<EndKind>,
}

struct Simulation {
    transactions: Transactions,
    config: TransactionConfig,
    now: Now,
    random: SeededRandom,
    queue: VecDeque<Queued>,
    takes: VecDeque<Token>,
    late: Vec<Append>,
    log: Vec<EncodedRecord>,
    /// The newest durable state of each id.
    durable: HashMap<String, TransactionMetadata>,
    retired: BTreeSet<ProducerId>,
    /// Whose transaction may be ongoing without the log knowing it: the store failed.
    unstored: BTreeSet<String>,
    partitions: Vec<HashMap<ProducerId, Known>>,
    batches: Vec<Batch>,
    /// What the client was told of the end of each transaction.
    told: Vec<Option<EndKind>>,
    clients: Vec<Client>,
    outstanding: BTreeMap<RequestId, Outstanding>,
    incarnations: [u64; IDS.len()],
    initialized: [Option<Identity>; IDS.len()],
    /// Since when a transaction is seen to be ongoing, by its id and ordinal.
    ongoing: HashMap<(usize, u64), Duration>,
    has_faults: bool,
    last_request: u64,
    last_producer: i64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let config = TransactionConfig {
            timeouts_check_interval: CHECK_INTERVAL,
            id_expiration: Duration::from_secs(20),
            id_expiration_check_interval: Duration::from_secs(20),
            ..TransactionConfig::default()
        };
        let now = Now { monotonic: Duration::from_secs(1000), unix_ms: 1_700_000_000_000 };
        let mut simulation = Self {
            transactions: Transactions::new(config.clone(), now),
            config,
            now,
            random: SeededRandom::new(seed),
            queue: VecDeque::new(),
            takes: VecDeque::new(),
            late: Vec::new(),
            log: Vec::new(),
            durable: HashMap::new(),
            retired: BTreeSet::new(),
            unstored: BTreeSet::new(),
            partitions: vec![HashMap::new(); PARTITIONS],
            batches: Vec::new(),
            told: Vec::new(),
            clients: (0..CLIENTS).map(|index| Client::new(index % IDS.len())).collect(),
            outstanding: BTreeMap::new(),
            incarnations: [0; IDS.len()],
            initialized: [None; IDS.len()],
            ongoing: HashMap::new(),
            has_faults: true,
            last_request: 0,
            last_producer: 100,
        };
        // The epochs of one id are nearly exhausted.
        let old = TransactionMetadata {
            producer: ProducerId(50),
            updated_ms: now.unix_ms,
            last_epoch: ProducerEpoch::NONE,
            ..metadata(State::CompleteCommit, 32750)
        };
        simulation.log.push(super::super::record::encode("last", Some(&old)));
        simulation.durable.insert("last".to_owned(), old);
        simulation.restart();
        simulation
    }

    fn below(&self, limit: u64) -> u64 {
        self.random.next_u64() % limit
    }

    fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn fails(&self, one_in: u64) -> bool {
        self.has_faults && self.one_in(one_in)
    }

    /// How many transactions were committed.
    fn run(mut self) -> usize {
        for _ in 0..STEPS {
            self.step();
            self.check();
        }
        self.calm();
        self.end()
    }

    fn step(&mut self) {
        let index = self.below(CLIENTS as u64) as usize;
        match self.below(200) {
            0..110 => self.act(index),
            110..160 => self.end_write(),
            160..168 => self.give(),
            168..185 => self.advance(Duration::from_millis(self.below(4000))),
            185 if self.one_in(4) => self.advance(Duration::from_millis(self.below(60_000))),
            185..189 => self.end_write(),
            189 => self.append_late(),
            190..193 => self.clients[index].is_alive = false,
            193..197 => self.clients[index].is_alive = true,
            // Another process under the same transactional id.
            197 => self.clients[index].begin_anew(false),
            198 => self.clients[index].begin_anew(true),
            _ if self.one_in(2) => self.crash(),
            _ => {}
        }
    }

    fn act(&mut self, index: usize) {
        // Now and then one loses patience, or its connection, and goes on without the answer: rather where only a batch is
        // still on its way.
        let waits_for_batch = |request| {
            let asks = self.outstanding.get(&request).map(|outstanding| outstanding.asks);
            matches!(asks, Some(Asks::Produce { joined: Some(true), .. }))
        };
        let is_late = self.clients[index].waits.is_some_and(waits_for_batch);
        let is_patient = !self.fails(if is_late { 2 } else { 10 });
        let client = &mut self.clients[index];
        if client.waits.is_some() && !is_patient {
            client.waits = None;
        }
        if !client.is_alive || client.waits.is_some() {
            return;
        }
        match self.clients[index].phase {
            Phase::MustInit => self.init(index),
            Phase::Idle => {
                let number = self.told.len();
                self.told.push(None);
                let client = &mut self.clients[index];
                client.added.clear();
                client.phase = Phase::Writes(number);
            }
            Phase::Writes(number) if self.one_in(4) => {
                let kind = if self.one_in(3) { EndKind::Abort } else { EndKind::Commit };
                // By the first rules a client does not end what it did not begin.
                let Client { id, added, .. } = &self.clients[index];
                let began = IDS[*id].1 == V2 || !added.is_empty();
                self.clients[index].phase = if began { Phase::MustEnd(number, kind) } else { Phase::Idle };
            }
            Phase::Writes(number) => self.produce(index, number),
            Phase::MustEnd(number, kind) => self.end_transaction(index, number, kind),
        }
    }

    fn ask(&mut self, index: usize, partition: i32, asks: Asks) -> RequestId {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let client = &mut self.clients[index];
        client.waits = Some(request);
        let Client { id, incarnation, identity, .. } = *client;
        let is_fenced = asks != Asks::Init && incarnation < self.incarnations[id];
        let outstanding =
            Outstanding { client: index, id, incarnation, is_fenced, identity, partition, asks };
        self.outstanding.insert(request, outstanding);
        request
    }

    fn init(&mut self, index: usize) {
        let request = self.ask(index, 0, Asks::Init);
        let client = &self.clients[index];
        let init = InitProducer {
            id: IDS[client.id].0.into(),
            timeout_ms: i32::try_from(TIMEOUT.as_millis()).unwrap(),
            expected: client.identity.filter(|_| client.expects),
        };
        let effects = self.transactions.init_producer(request, init, self.now);
        self.perform(effects);
    }

    fn produce(&mut self, index: usize, number: usize) {
        let partition = i32::try_from(self.below(PARTITIONS as u64)).unwrap();
        let client = &self.clients[index];
        let version = IDS[client.id].1;
        let (how, asks) = if version == V0 && !client.added.contains(&partition) {
            (How::Add(V0), Asks::Add(partition))
        } else {
            self.batches.push(Batch { transaction: number, fate: None });
            let how = if version == V2 { How::Add(V2) } else { How::Verify };
            (how, Asks::Produce { batch: self.batches.len() - 1, joined: None, written: None })
        };
        let (producer, epoch) = client.identity.expect("who writes has an identity");
        let request = self.ask(index, partition, asks);
        let id = IDS[self.clients[index].id].0.into();
        let join = Join { id, producer, epoch, partitions: vec![part(partition)], how };
        let effects = self.transactions.join(request, join, self.now);
        self.perform(effects);
    }

    fn end_transaction(&mut self, index: usize, number: usize, kind: EndKind) {
        let request = self.ask(index, 0, Asks::End(number, kind));
        let client = &self.clients[index];
        let (producer, epoch) = client.identity.expect("who ends has an identity");
        let (id, version) = IDS[client.id];
        let end = End { id: id.into(), producer, epoch, kind, version };
        let effects = self.transactions.end(request, &end, self.now);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::TakeProducerId { token } => self.takes.push_back(token),
                Effect::Store { token, record } => self.queue.push_back(Queued::Store(token, record)),
                Effect::End { token, end } => self.queue.push_back(Queued::End(token, end)),
                Effect::Admit { request, ordinal } => {
                    if IDS[self.outstanding[&request].id].1 == V2 {
                        self.append(request, ordinal);
                    }
                }
                Effect::Answer { request, response } => self.answered(request, response),
            }
        }
    }

    /// The door has leave to append, and does it now or later.
    fn append(&mut self, request: RequestId, ordinal: u64) {
        let outstanding = &self.outstanding[&request];
        let Asks::Produce { batch, .. } = outstanding.asks else { return };
        let append = Append {
            request,
            partition: outstanding.partition as usize,
            identity: outstanding.identity.expect("who writes has an identity"),
            ordinal,
            batch,
        };
        if self.fails(4) {
            self.late.push(append);
        } else {
            self.queue.push_back(Queued::Append(append));
        }
    }

    fn append_late(&mut self) {
        if !self.late.is_empty() {
            let append = self.late.swap_remove(self.below(self.late.len() as u64) as usize);
            self.queue.push_back(Queued::Append(append));
        }
    }

    fn answered(&mut self, request: RequestId, response: Response) {
        let outstanding = self.outstanding.get_mut(&request);
        let outstanding =
            outstanding.unwrap_or_else(|| panic!("{request:?} was answered before: {response:?}"));
        let (id, is_fenced) = (outstanding.id, outstanding.is_fenced);
        let name = IDS[id].0;
        let durable = self.durable.get(name);
        match response {
            Response::InitProducer(result) => {
                if let Ok(identity) = result {
                    let durable = durable.expect("it is stored");
                    assert_eq!((durable.producer, durable.epoch), identity, "{name} is told what is durable");
                    if self.initialized[id] != Some(identity) {
                        self.incarnations[id] += 1;
                        self.initialized[id] = Some(identity);
                    }
                }
                self.finish(request, |client, incarnation| client.initialized(result, incarnation));
            }
            Response::End(result) => {
                let Asks::End(number, kind) = outstanding.asks else { panic!("it asked for no end") };
                if let Ok(identity) = result {
                    assert!(!is_fenced, "a fenced producer of {name} ends a transaction");
                    let durable = durable.expect("it is stored");
                    let decided = durable.state.preparing().or(durable.state.completed());
                    assert_eq!(decided, Some(kind), "{name} is told of an end that is durable");
                    assert!(IDS[id].1 == V2 || outstanding.identity == Some(identity));
                    assert!(self.told[number].is_none_or(|told| told == kind), "{name} ends twice");
                    self.told[number] = Some(kind);
                }
                self.finish(request, |client, _| client.ended(result));
            }
            // What it asked for is lost, and so is whatever it has written.
            Response::Join(Err(
                TransactionError::ProducerFenced | TransactionError::InvalidProducerIdMapping,
            )) => self.finish(request, |client, _| client.begin_anew(false)),
            Response::Join(result) => {
                let is_there = result.as_ref().is_ok_and(|joined| joined.partitions == [Ok(())]);
                if is_there {
                    assert!(!is_fenced, "a fenced producer of {name} joins a transaction");
                }
                match &mut outstanding.asks {
                    Asks::Produce { joined, .. } if IDS[id].1 == V0 => {
                        *joined = Some(is_there);
                        if is_there {
                            self.append(request, result.expect("it is there").ordinal);
                        }
                    }
                    asks => {
                        if is_there {
                            let durable = durable.expect("it is stored");
                            assert_eq!(durable.state, State::Ongoing);
                            assert!(durable.partitions.contains(&part(outstanding.partition)));
                        }
                        if let Asks::Produce { joined, .. } = asks {
                            *joined = Some(is_there);
                        }
                    }
                }
                self.heard(request, is_there);
            }
        }
    }

    /// What a client hears of a join or a batch, if all is known.
    fn heard(&mut self, request: RequestId, is_there: bool) {
        let Some(outstanding) = self.outstanding.get(&request) else { return };
        match outstanding.asks {
            Asks::Add(partition) => self.finish(request, |client, _| client.added(partition, is_there)),
            // It goes on or ends, whatever became of the batch: what is there shares the fate of the others.
            Asks::Produce { joined: Some(false), .. }
            | Asks::Produce { written: Some(_), joined: Some(_), .. } => {
                self.finish(request, |_, _| {});
            }
            _ => {}
        }
    }

    /// The client hears, if it still listens.
    fn finish(&mut self, request: RequestId, hears: impl FnOnce(&mut Client, u64)) {
        let outstanding = self.outstanding.remove(&request).expect("it is outstanding");
        let client = &mut self.clients[outstanding.client];
        if client.waits == Some(request) && client.incarnation == outstanding.incarnation {
            client.waits = None;
            hears(client, self.incarnations[outstanding.id]);
        }
    }

    fn give(&mut self) {
        let Some(token) = self.takes.pop_front() else { return };
        self.last_producer += 1;
        let fails = self.fails(5);
        let outcome = if fails { Err(StoreError::Full) } else { Ok(ProducerId(self.last_producer)) };
        let effects = self.transactions.producer_id(token, outcome, self.now);
        self.perform(effects);
    }

    /// The log takes what is next, and says so.
    fn end_write(&mut self) {
        let fails = self.fails(10);
        let Some(write) = self.queue.pop_front() else { return };
        let effects = match write {
            Queued::Append(append) => {
                let is_written = !fails && self.land(&append);
                self.note_written(&append, is_written);
                return;
            }
            Queued::Store(token, record) => {
                let outcome = if fails {
                    self.unstored.insert(decoded(&record).id);
                    Err(StoreError::Full)
                } else {
                    self.write(record);
                    Ok(())
                };
                self.transactions.stored(token, outcome, self.now)
            }
            Queued::End(token, end) => {
                let outcome = if fails { Err(StoreError::Full) } else { Ok(self.mark(&end)) };
                self.transactions.ended(token, outcome, self.now)
            }
        };
        self.perform(effects);
    }

    fn note_written(&mut self, append: &Append, is_written: bool) {
        if let Some(outstanding) = self.outstanding.get_mut(&append.request)
            && let Asks::Produce { written, .. } = &mut outstanding.asks
        {
            *written = Some(is_written);
            self.heard(append.request, is_written);
        }
    }

    /// The partition's rules for data: no older epoch, and no transaction that has ended.
    fn land(&mut self, append: &Append) -> bool {
        let (producer, epoch) = append.identity;
        let known = self.partitions[append.partition].entry(producer).or_default();
        if epoch < known.epoch || append.ordinal <= known.ended {
            return false;
        }
        known.epoch = epoch;
        known.open.get_or_insert(epoch);
        known.batches.push(append.batch);
        true
    }

    /// Writes the markers that can be written, and the decision; tells which are missing.
    fn mark(&mut self, end: &EndTransaction) -> Vec<TopicPartition> {
        let mut missing = Vec::new();
        for partition in &end.partitions {
            if self.fails(10) {
                missing.push(partition.clone());
                continue;
            }
            let index = partition.partition as usize;
            let known = self.partitions[index].entry(end.producer).or_default();
            if end.only_open && known.open.is_none() {
                continue;
            }
            let is_newer = match end.version {
                V0 => end.epoch >= known.epoch,
                V2 => end.epoch > known.epoch,
            };
            assert!(is_newer, "a marker of epoch {} after {}", end.epoch, known.epoch);
            known.epoch = end.epoch;
            known.ended = known.ended.max(end.ordinal);
            self.close(index, end.producer, end.kind);
        }
        if let Some(record) = logged(end, &missing) {
            self.write(record);
        }
        missing
    }

    fn close(&mut self, partition: usize, producer: ProducerId, kind: EndKind) {
        let known = self.partitions[partition].get_mut(&producer).expect("it is known");
        known.open = None;
        for batch in std::mem::take(&mut known.batches) {
            let Batch { fate, .. } = &mut self.batches[batch];
            assert_eq!(*fate, None, "a batch ends once");
            *fate = Some(kind);
        }
    }

    fn write(&mut self, record: EncodedRecord) {
        let TransactionRecord { id, value } = decoded(&record);
        let before = self.durable.get(&id);
        match (before, &value) {
            (Some(before), Some(after)) => {
                check_step(before, after, self.unstored.contains(&id));
                if before.producer != after.producer {
                    self.retired.insert(before.producer);
                    assert!(!self.retired.contains(&after.producer), "{id}: a producer id comes back");
                }
            }
            (Some(before), None) => {
                assert!(matches!(before.state, State::Empty | State::CompleteCommit | State::CompleteAbort));
            }
            (None, Some(after)) => assert_eq!(after.epoch, ProducerEpoch(0)),
            (None, None) => {}
        }
        self.unstored.remove(&id);
        match value {
            Some(value) => self.durable.insert(id, value),
            None => self.durable.remove(&id),
        };
        self.log.push(record);
    }

    fn advance(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.unix_ms += i64::try_from(by.as_millis()).unwrap();
        let effects = self.transactions.tick(self.now);
        self.perform(effects);
        let next = self.transactions.next_deadline();
        assert!(next.is_none_or(|next| next > self.now.monotonic), "a tick does all that is due");
    }

    /// The first writes under way may be durable without anyone having been told; and data may be, before the records
    /// that are in the same group of writes, but not before an end that they follow.
    fn crash(&mut self) {
        for _ in 0..self.below(self.queue.len() as u64 + 1) {
            match self.queue.pop_front().expect("it is under way") {
                Queued::Append(append) => drop(self.land(&append)),
                Queued::Store(_, record) => self.write(record),
                Queued::End(_, end) => drop(self.mark(&end)),
            }
        }
        while let Some(Queued::Append(_) | Queued::Store(..)) = self.queue.front() {
            if let Some(Queued::Append(append)) = self.queue.pop_front()
                && self.one_in(3)
            {
                self.land(&append);
            }
        }
        self.queue.clear();
        self.takes.clear();
        self.late.clear();
        self.outstanding.clear();
        self.ongoing.clear();
        self.unstored.clear();
        for client in &mut self.clients {
            client.waits = None;
        }
        for known in self.partitions.iter_mut().flat_map(HashMap::values_mut) {
            known.ended = 0;
        }
        self.now.unix_ms += i64::try_from(self.below(200_000)).unwrap() - 100_000;
        self.restart();
    }

    fn restart(&mut self) {
        let (transactions, effects) = restored(&self.log, &self.config, self.now);
        let is_decided = |durable: &&TransactionMetadata| durable.state.preparing().is_some();
        let decided = self.durable.values().filter(is_decided).count();
        assert_eq!(effects.len(), decided, "what is decided is completed before anything else");
        self.transactions = transactions;
        self.perform(effects);
        while !self.queue.is_empty() {
            self.end_write();
        }
        let mut open = Vec::new();
        for (partition, known) in self.partitions.iter().enumerate() {
            open.extend(known.iter().filter_map(|(producer, known)| {
                let partition = part(i32::try_from(partition).unwrap());
                Some(Open { partition, producer: *producer, epoch: known.open? })
            }));
        }
        open.sort_by_key(|open| (open.partition.clone(), open.producer));
        let (effects, orphans) = self.transactions.reconcile(open, self.now);
        assert_eq!(orphans, [], "who was let in is known");
        self.perform(effects);
    }

    fn check(&mut self) {
        let mut seen = HashMap::new();
        for (index, (id, _)) in IDS.into_iter().enumerate() {
            let Some(transaction) = self.transactions.by_id.get(id) else { continue };
            if transaction.metadata.state == State::Ongoing {
                let key = (index, transaction.ordinal);
                let since = self.ongoing.get(&key).copied().unwrap_or(self.now.monotonic);
                let lasted = self.now.monotonic - since;
                assert!(lasted <= TIMEOUT + CHECK_INTERVAL + FAULTS_MAX, "{id} lasts for {lasted:?}");
                seen.insert(key, since);
            }
        }
        self.ongoing = seen;
        if self.one_in(20) {
            self.check_restore();
        }
        // A disk may be slow, not stuck.
        while self.queue.len() > 12 {
            self.end_write();
        }
        while self.takes.len() > 2 {
            self.give();
        }
    }

    /// What is not under way is durable.
    fn check_restore(&self) {
        let (restored, _) = restored(&self.log, &self.config, self.now);
        for (id, _) in IDS {
            let is_under_way = self.transactions.in_flight.iter().any(|write| write.id == id)
                || self.transactions.taking.values().any(|(taker, _)| taker == id);
            let known = self.transactions.by_id.get(id);
            let known = known.filter(|known| known.metadata.epoch != ProducerEpoch::NONE);
            if is_under_way || known.is_some_and(|known| known.is_unstored) {
                continue;
            }
            let known = known.map(|known| {
                let mut metadata = known.metadata.clone();
                metadata.last_epoch = ProducerEpoch::NONE;
                metadata
            });
            let mut durable = self.durable.get(id).cloned();
            let restored = restored.by_id.get(id).map(|restored| restored.metadata.clone());
            assert_eq!(restored, durable, "{id} after a restart");
            // Whose markers are missing is not stored again.
            if let (Some(durable), Some(known)) = (&mut durable, &known)
                && known.state.preparing().is_some()
            {
                assert!(known.partitions.is_subset(&durable.partitions));
                durable.partitions.clone_from(&known.partitions);
            }
            assert_eq!(known, durable, "{id} is durable");
        }
    }

    /// Without faults, who lives gets on.
    fn calm(&mut self) {
        self.has_faults = false;
        for index in 0..CLIENTS {
            // One for each id, or they fence each other for ever.
            self.clients[index].is_alive = index < IDS.len();
        }
        for append in std::mem::take(&mut self.late) {
            self.queue.push_back(Queued::Append(append));
        }
        let mut ended = [0; IDS.len()];
        for _ in 0..400 {
            for (index, ended) in ended.iter_mut().enumerate() {
                let before = self.clients[index].phase;
                self.act(index);
                while !self.queue.is_empty() || !self.takes.is_empty() {
                    self.end_write();
                    self.give();
                }
                let is_over =
                    matches!(before, Phase::MustEnd(..)) && self.clients[index].phase == Phase::Idle;
                *ended += usize::from(is_over);
            }
            self.advance(Duration::from_millis(500));
            self.check();
        }
        assert!(ended.into_iter().all(|ended| ended > 10), "transactions end: {ended:?}");
    }

    /// When all are silent, everything ends in its time. Returns how many transactions were committed.
    fn end(&mut self) -> usize {
        for _ in 0..32 {
            self.advance(Duration::from_secs(1));
            while !self.queue.is_empty() || !self.takes.is_empty() {
                self.end_write();
                self.give();
            }
        }
        self.check_restore();
        assert!(self.transactions.in_flight.is_empty());
        for (id, _) in IDS {
            let state = self.transactions.describe(id).map(|described| described.state);
            assert!(
                !matches!(state, Some(State::Ongoing | State::PrepareCommit | State::PrepareAbort)),
                "{id}: {state:?}"
            );
        }
        for known in self.partitions.iter().flat_map(HashMap::values) {
            assert_eq!((known.open, known.batches.len()), (None, 0), "nothing hangs");
        }
        let mut fates: HashMap<usize, EndKind> = HashMap::new();
        for Batch { transaction, fate } in &self.batches {
            let Some(fate) = fate else { continue };
            assert_eq!(fates.entry(*transaction).or_insert(*fate), fate, "all of a transaction, or nothing");
            assert!(self.told[*transaction].is_none_or(|told| told == *fate), "as its producer was told");
        }
        fates.values().filter(|fate| **fate == EndKind::Commit).count()
    }
}

/// What may follow in the log.
fn check_step(before: &TransactionMetadata, after: &TransactionMetadata, may_be_ongoing: bool) {
    let story = format!("{before:?}, then {after:?}");
    if before.producer == after.producer {
        assert!(before.epoch <= after.epoch, "an epoch goes back: {story}");
    } else {
        assert_eq!(after.epoch, ProducerEpoch(0), "{story}");
    }
    assert_eq!(after.previous, before.producer, "{story}");
    let may_follow = match (before.state, after.state) {
        (State::Ongoing, State::Ongoing) => {
            before.partitions.is_subset(&after.partitions) && before.started_ms == after.started_ms
        }
        (State::Ongoing, to) => to != State::Empty,
        (State::PrepareCommit, to) => to == State::CompleteCommit,
        (State::PrepareAbort, to) => to == State::CompleteAbort,
        (_, State::Empty | State::Ongoing) => true,
        (_, to) => may_be_ongoing || to.preparing().or(to.completed()) == Some(EndKind::Abort),
    };
    assert!(may_follow, "{story}");
}
