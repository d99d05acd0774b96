//! A history as transactions, records and reads.

use std::collections::{BTreeMap, HashMap};

use super::{Anomaly, Check, Event, HistoryError, Isolation, Op, Outcome, Source};

/// A transaction, or a record that was sent outside of one.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) client: usize,
    /// Which of its client's, from 1 on; 0: none.
    pub(super) number: usize,
    /// Whether it is committed, as far as its client knows. Nobody commits what he is not asked to.
    pub(super) outcome: Outcome,
    /// When it was first asked to commit.
    pub(super) asked_us: Option<i64>,
    pub(super) records: Vec<usize>,
    pub(super) offsets: Vec<(GroupPartition, i64)>,
    /// What it rests on.
    pub(super) polls: Vec<usize>,
}

/// A group, and a partition that it reads.
pub(super) type GroupPartition = (String, usize);

/// A record that was sent.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) value: String,
    pub(super) transaction: usize,
    pub(super) partition: usize,
    pub(super) outcome: Outcome,
    pub(super) source: Option<Source>,
    /// When, by events.
    pub(super) sent: usize,
    /// Its offset, by whoever was told first.
    pub(super) place: Option<i64>,
    /// Somebody told of another.
    is_elsewhere: bool,
}

/// What a reader was given.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) client: usize,
    pub(super) partition: usize,
    pub(super) from: i64,
    pub(super) next: i64,
    /// Offsets and records that somebody has sent.
    pub(super) found: Vec<(i64, usize)>,
    pub(super) isolation: Isolation,
    /// When, by events.
    pub(super) at: usize,
}

/// Somebody was told where a group stands.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) client: usize,
    pub(super) group: GroupPartition,
    pub(super) offset: i64,
    pub(super) at_us: i64,
}

/// What a client is doing.
#[derive(Debug, Default)]
struct Client {
    transactions: usize,
    open: Option<usize>,
    /// Polls that the next transaction rests on.
    polls: Vec<usize>,
    /// Where it reads on, in each partition, and what it may see.
    positions: HashMap<(usize, Isolation), i64>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) clients: Vec<String>,
    pub(super) partitions: Vec<String>,
    pub(super) transactions: Vec<Transaction>,
    pub(super) records: Vec<Record>,
    pub(super) polls: Vec<Poll>,
    pub(super) told: Vec<Told>,
    /// What stands where, in each partition.
    pub(super) places: Vec<BTreeMap<i64, usize>>,
    pub(super) anomalies: Vec<Anomaly>,
    by_value: HashMap<String, usize>,
    doing: Vec<Client>,
    client_numbers: HashMap<String, usize>,
    partition_numbers: HashMap<String, usize>,
}

impl Ledger {
    pub(super) fn new(events: &[Event]) -> Result<Self, HistoryError> {
        let mut ledger = Self::default();
        // A record may be read before its client writes down that it was sent well, but not before it was sent.
        for (at, event) in events.iter().enumerate() {
            ledger.sent_or_ended(at, event).map_err(|what| HistoryError::Senseless {
                event: at + 1,
                client: event.client.clone(),
                what,
            })?;
        }
        for (at, event) in events.iter().enumerate() {
            ledger.seen(at, event);
        }
        Ok(ledger)
    }

    pub(super) fn wrong(&mut self, check: Check, what: String) {
        self.anomalies.push(Anomaly { check, what });
    }

    /// The client and which of its transactions it is.
    pub(super) fn name(&self, transaction: usize) -> String {
        let Transaction { client, number, .. } = &self.transactions[transaction];
        match number {
            0 => format!("a plain send of {}", self.clients[*client]),
            number => format!("transaction {number} of {}", self.clients[*client]),
        }
    }

    /// A record, where it is and whose.
    pub(super) fn describe(&self, record: usize) -> String {
        let Record { value, partition, place, transaction, .. } = &self.records[record];
        let place = place.map_or_else(|| "an unknown offset".to_owned(), |place| format!("offset {place}"));
        format!("{value:?} at {place} of {}, {}", self.partitions[*partition], self.name(*transaction))
    }

    fn client(&mut self, name: &str) -> usize {
        if let Some(number) = self.client_numbers.get(name) {
            return *number;
        }
        let number = self.clients.len();
        self.client_numbers.insert(name.to_owned(), number);
        self.clients.push(name.to_owned());
        self.doing.push(Client::default());
        number
    }

    fn partition(&mut self, name: &str) -> usize {
        if let Some(number) = self.partition_numbers.get(name) {
            return *number;
        }
        let number = self.partitions.len();
        self.partition_numbers.insert(name.to_owned(), number);
        self.partitions.push(name.to_owned());
        self.places.push(BTreeMap::new());
        number
    }

    fn begin(&mut self, client: usize, number: usize, outcome: Outcome) -> usize {
        self.transactions.push(Transaction {
            client,
            number,
            outcome,
            asked_us: None,
            records: Vec::new(),
            offsets: Vec::new(),
            polls: Vec::new(),
        });
        self.transactions.len() - 1
    }

    /// First what was sent, and how it ended.
    fn sent_or_ended(&mut self, at: usize, event: &Event) -> Result<(), &'static str> {
        let client = self.client(&event.client);
        match &event.op {
            Op::Begin => {
                self.doing[client].transactions += 1;
                let number = self.doing[client].transactions;
                let transaction = self.begin(client, number, Outcome::Failed);
                self.transactions[transaction].polls = std::mem::take(&mut self.doing[client].polls);
                self.doing[client].open = Some(transaction);
            }
            Op::Send { partition, value, offset, source } => {
                let partition = self.partition(partition);
                let sent = Sent { client, partition, offset: *offset, source: source.clone() };
                return self.send(at, value, sent, event.outcome);
            }
            Op::Offsets { group, partition, offset } => {
                let partition = self.partition(partition);
                let open = self.doing[client].open.ok_or("there is no transaction")?;
                if event.outcome != Outcome::Failed {
                    self.transactions[open].offsets.push(((group.clone(), partition), *offset));
                }
            }
            Op::Commit => {
                let open = self.doing[client].open.ok_or("there is no transaction")?;
                self.transactions[open].asked_us.get_or_insert(event.at_us);
                self.transactions[open].outcome = event.outcome;
                if event.outcome != Outcome::Unknown {
                    self.doing[client].open = None;
                }
            }
            Op::Abort => {
                let open = self.doing[client].open.ok_or("there is no transaction")?;
                if event.outcome == Outcome::Ok {
                    self.transactions[open].outcome = Outcome::Failed;
                    self.doing[client].open = None;
                }
            }
            Op::Seek { .. } => self.doing[client].polls.clear(),
            Op::Poll { partition, isolation, offset, next, .. } => {
                let partition = self.partition(partition);
                let (isolation, from, next) = (*isolation, *offset, *next);
                let poll = self.polls.len();
                self.polls.push(Poll { client, partition, from, next, found: Vec::new(), isolation, at });
                match self.doing[client].open {
                    Some(open) => self.transactions[open].polls.push(poll),
                    None => self.doing[client].polls.push(poll),
                }
            }
            Op::Committed { group, partition, offset } => {
                let partition = self.partition(partition);
                let group = (group.clone(), partition);
                self.told.push(Told { client, group, offset: *offset, at_us: event.at_us });
            }
        }
        Ok(())
    }

    fn send(&mut self, at: usize, value: &str, sent: Sent, outcome: Outcome) -> Result<(), &'static str> {
        let Sent { client, partition, offset, source } = sent;
        let record = match self.by_value.get(value) {
            Some(record) => {
                let known = &mut self.records[*record];
                let transaction = &mut self.transactions[known.transaction];
                if known.outcome != Outcome::Unknown || transaction.client != client {
                    return Err("it sends a value another time");
                }
                if known.partition != partition {
                    return Err("it sends a value to two partitions");
                }
                known.outcome = outcome;
                if transaction.number == 0 {
                    transaction.outcome = outcome;
                }
                *record
            }
            None => {
                let open = self.doing[client].open;
                let transaction = open.unwrap_or_else(|| self.begin(client, 0, outcome));
                let record = self.records.len();
                self.transactions[transaction].records.push(record);
                self.by_value.insert(value.to_owned(), record);
                self.records.push(Record {
                    value: value.to_owned(),
                    transaction,
                    partition,
                    outcome,
                    source,
                    sent: at,
                    place: None,
                    is_elsewhere: false,
                });
                record
            }
        };
        if let Some(offset) = offset {
            self.place(record, partition, offset, "its client");
        }
        Ok(())
    }

    /// Somebody was told that the record is there.
    fn place(&mut self, record: usize, partition: usize, offset: i64, who: &str) {
        let known = &self.records[record];
        if known.partition != partition {
            let (there, what) = (self.partitions[partition].clone(), self.describe(record));
            return self.wrong(Check::Duplicate, format!("{what}, is at {offset} of {there}, by {who}"));
        }
        match known.place {
            Some(place) if place == offset => return,
            Some(_) if known.is_elsewhere => return,
            Some(_) => {
                self.records[record].is_elsewhere = true;
                let what = self.describe(record);
                return self.wrong(Check::Duplicate, format!("{what}, is at {offset}, too, by {who}"));
            }
            None => self.records[record].place = Some(offset),
        }
        if let Some(other) = self.places[partition].insert(offset, record) {
            let (one, other) = (self.describe(record), self.describe(other));
            self.wrong(Check::OffsetTaken, format!("{one}, by {who}; and {other}"));
        }
    }

    /// Then what was read, and where readers were.
    fn seen(&mut self, at: usize, event: &Event) {
        let client = self.client_numbers[&event.client];
        match &event.op {
            Op::Seek { partition } => {
                let partition = self.partition(partition);
                self.doing[client].positions.retain(|(of, _), _| *of != partition);
            }
            Op::Poll { partition, offset, next, values, isolation } => {
                let partition = self.partition(partition);
                let position = self.doing[client].positions.insert((partition, *isolation), *next);
                if let Some(position) = position.filter(|position| position != offset) {
                    let what = format!(
                        "{} has read {} to {position}, and then from {offset} on",
                        event.client, self.partitions[partition]
                    );
                    self.wrong(Check::NonMonotonicPoll, what);
                }
                self.polled(at, client, (partition, *offset, *next), values);
            }
            _ => {}
        }
    }

    fn polled(
        &mut self,
        at: usize,
        client: usize,
        (partition, from, next): (usize, i64, i64),
        values: &[(i64, String)],
    ) {
        let who = self.clients[client].clone();
        let (mut found, mut least) = (Vec::with_capacity(values.len()), from);
        for (offset, value) in values {
            if *offset < least || *offset >= next {
                let there = &self.partitions[partition];
                let what = format!("{who} was given offset {offset} of {there} between {least} and {next}");
                self.wrong(Check::NonMonotonicPoll, what);
            }
            least = offset + 1;
            match self.by_value.get(value).copied() {
                Some(record) => {
                    self.place(record, partition, *offset, &who);
                    found.push((*offset, record));
                }
                None => {
                    let there = &self.partitions[partition];
                    self.wrong(Check::Phantom, format!("{value:?} at {offset} of {there}, by {who}"));
                }
            }
        }
        let poll = self.polls.binary_search_by_key(&at, |poll| poll.at).expect("it was noted before");
        self.polls[poll].found = found;
    }
}

/// A send, as its client tells of it.
struct Sent {
    client: usize,
    partition: usize,
    offset: Option<i64>,
    source: Option<Source>,
}
