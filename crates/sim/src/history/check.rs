//! What may not happen.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::cycles::cycles;
use super::ledger::{GroupPartition, Ledger, Record, Transaction};
use super::{Check, Event, HistoryError, Isolation, Outcome, Source, Verdict};

/// What a history comes to.
///
/// # Errors
/// [`HistoryError::Senseless`], if it cannot be what clients did, whatever the broker did.
pub fn judge(events: &[Event]) -> Result<Verdict, HistoryError> {
    let ledger = Ledger::new(events)?;
    let (records, transactions) = (ledger.records.len(), ledger.transactions.len());
    let mut judge = Judge {
        ledger,
        shown: vec![None; records],
        passed: vec![None; records],
        is_committed: vec![false; transactions],
    };
    judge.read();
    judge.decide();
    judge.offsets();
    judge.order();
    judge.circles();
    judge.loops();
    Ok(judge.verdict(events.len()))
}

struct Judge {
    ledger: Ledger,
    /// A poll that shows the record to whoever asked for committed ones.
    shown: Vec<Option<usize>>,
    /// A poll that comes by and does not show it to such a one.
    passed: Vec<Option<usize>>,
    /// Transactions whose records and offsets count.
    is_committed: Vec<bool>,
}

impl Judge {
    /// Who reads from one offset to another is shown what stands there.
    fn read(&mut self) {
        for at in 0..self.ledger.polls.len() {
            let poll = &self.ledger.polls[at];
            let found: BTreeSet<usize> = poll.found.iter().map(|(_, record)| *record).collect();
            let (isolation, client) = (poll.isolation, poll.client);
            let there = self.ledger.places[poll.partition].range(poll.from..poll.next.max(poll.from));
            let missed: Vec<usize> =
                there.map(|(_, record)| *record).filter(|record| !found.contains(record)).collect();
            if isolation == Isolation::ReadCommitted {
                found.into_iter().for_each(|record| _ = self.shown[record].get_or_insert(at));
                missed.into_iter().for_each(|record| _ = self.passed[record].get_or_insert(at));
                continue;
            }
            for record in missed {
                let what =
                    format!("{} does not see {}", self.ledger.clients[client], self.ledger.describe(record));
                self.ledger.wrong(Check::LostWrite, what);
            }
        }
    }

    fn whom(&self, poll: Option<usize>) -> &str {
        poll.map_or("nobody", |poll| &self.ledger.clients[self.ledger.polls[poll].client])
    }

    /// Each transaction is committed for everybody, or for nobody.
    fn decide(&mut self) {
        for at in 0..self.ledger.transactions.len() {
            let Transaction { outcome, records, .. } = &self.ledger.transactions[at];
            let (outcome, records) = (*outcome, records.clone());
            let shown: Vec<usize> =
                records.iter().copied().filter(|record| self.shown[*record].is_some()).collect();
            let missed: Vec<usize> =
                records.iter().copied().filter(|record| self.is_missed(*record)).collect();
            self.is_committed[at] = match outcome {
                Outcome::Ok => true,
                Outcome::Failed => false,
                Outcome::Unknown => !shown.is_empty(),
            };
            for record in &shown {
                if outcome == Outcome::Failed || self.ledger.records[*record].outcome == Outcome::Failed {
                    let what = format!(
                        "{} sees {}, which was not committed",
                        self.whom(self.shown[*record]),
                        self.ledger.describe(*record)
                    );
                    self.ledger.wrong(Check::AbortedRead, what);
                }
            }
            if self.is_committed[at] {
                missed.iter().for_each(|record| self.missing(outcome, &shown, *record));
            }
        }
    }

    /// Nobody who asks for committed records sees it, or not all who do.
    fn is_missed(&self, record: usize) -> bool {
        let is_there = self.ledger.records[record].outcome == Outcome::Ok || self.shown[record].is_some();
        self.passed[record].is_some() || is_there && self.shown[record].is_none()
    }

    /// A record is missing of a transaction that is committed.
    fn missing(&mut self, outcome: Outcome, shown: &[usize], record: usize) {
        let what = self.ledger.describe(record);
        let passed = self.whom(self.passed[record]).to_owned();
        let (check, what) = match (self.shown[record], shown.first()) {
            // One of them came too early or too late.
            (Some(poll), _) if outcome == Outcome::Unknown => {
                let seen = self.whom(Some(poll));
                (Check::AbortedRead, format!("{seen} sees {what}, and {passed} does not"))
            }
            (Some(poll), _) => {
                let seen = self.whom(Some(poll));
                (Check::LostWrite, format!("{seen} sees {what}, and {passed} does not"))
            }
            (None, Some(other)) => {
                let other = self.ledger.describe(*other);
                (Check::Torn, format!("nobody sees {what}, and {passed} comes by; there is {other}"))
            }
            (None, None) => (Check::LostWrite, format!("nobody sees {what}, and {passed} comes by")),
        };
        self.ledger.wrong(check, what);
    }

    /// Where a group stands, a transaction has put it; or it stands nowhere.
    fn offsets(&mut self) {
        let mut writers: HashMap<(&GroupPartition, i64), Vec<usize>> = HashMap::new();
        for (at, transaction) in self.ledger.transactions.iter().enumerate() {
            for (group, offset) in &transaction.offsets {
                writers.entry((group, *offset)).or_default().push(at);
            }
        }
        let mut wrong = Vec::new();
        let mut committed = Vec::new();
        for told in &self.ledger.told {
            let wrote = writers.get(&(&told.group, told.offset)).map_or(&[][..], Vec::as_slice);
            let (group, partition) = (&told.group.0, &self.ledger.partitions[told.group.1]);
            let what = format!(
                "{} was told that {group} stands at {} of {partition}",
                self.ledger.clients[told.client], told.offset
            );
            let was_asked = |at: &&usize| {
                let Transaction { outcome, asked_us, .. } = &self.ledger.transactions[**at];
                *outcome != Outcome::Failed && asked_us.is_some_and(|asked_us| asked_us <= told.at_us)
            };
            let able: Vec<usize> = wrote.iter().filter(was_asked).copied().collect();
            let is_passed = |at: &usize| {
                let records = &self.ledger.transactions[*at].records;
                !self.is_committed[*at] && records.iter().any(|record| self.passed[*record].is_some())
            };
            match (able.as_slice(), wrote.first()) {
                ([], None) => wrong.push((Check::Phantom, what)),
                ([], Some(aborted)) => {
                    let aborted = self.ledger.name(*aborted);
                    wrong.push((Check::AbortedOffsets, format!("{what}, as {aborted} has it")));
                }
                (able, _) if able.iter().all(is_passed) => {
                    let torn = self.ledger.name(able[0]);
                    wrong.push((Check::Torn, format!("{what}, and no record of {torn} is seen")));
                }
                // It is known by this if it has written nothing else.
                ([only], _) => committed.push(*only),
                _ => {}
            }
        }
        for at in committed {
            let Transaction { records, .. } = &self.ledger.transactions[at];
            let records = records.clone();
            if !std::mem::replace(&mut self.is_committed[at], true) {
                let missed = records.into_iter().filter(|record| self.is_missed(*record)).collect::<Vec<_>>();
                missed.into_iter().for_each(|record| self.missing(Outcome::Unknown, &[], record));
            }
        }
        wrong.into_iter().for_each(|(check, what)| self.ledger.wrong(check, what));
    }

    /// What a client sends to a partition stands there in this order.
    fn order(&mut self) {
        let mut last: HashMap<(usize, usize), usize> = HashMap::new();
        let mut wrong = Vec::new();
        for (at, record) in self.ledger.records.iter().enumerate() {
            let Some(place) = record.place else { continue };
            let client = self.ledger.transactions[record.transaction].client;
            if let Some(before) = last.insert((client, record.partition), at)
                && self.ledger.records[before].place > Some(place)
            {
                wrong.push((before, at));
            }
        }
        for (before, after) in wrong {
            let (before, after) = (self.ledger.describe(before), self.ledger.describe(after));
            self.ledger.wrong(Check::NonMonotonicSend, format!("{before}, was sent before {after}"));
        }
    }

    /// What a committed transaction reads comes before it.
    fn circles(&mut self) {
        let Ledger { transactions, polls, records, .. } = &self.ledger;
        let mut edges = vec![Vec::new(); transactions.len()];
        let mut own = Vec::new();
        for (at, transaction) in transactions.iter().enumerate().filter(|(at, _)| self.is_committed[*at]) {
            let committed = transaction.polls.iter().map(|poll| &polls[*poll]);
            for poll in committed.filter(|poll| poll.isolation == Isolation::ReadCommitted) {
                let written = |(_, record): &(i64, usize)| records[*record].transaction;
                for from in poll.found.iter().map(written).filter(|from| self.is_committed[*from]) {
                    edges[from].push(at);
                }
                own.extend(self.behind_own(transaction, poll).map(|(one, other)| (at, one, other)));
            }
        }
        for circle in cycles(&edges) {
            let names: Vec<String> = circle.iter().take(6).map(|at| self.ledger.name(*at)).collect();
            let what = format!("{} transactions see each other: {}", circle.len(), names.join("; "));
            self.ledger.wrong(Check::CircularFlow, what);
        }
        for (at, one, other) in own {
            let (name, one) = (self.ledger.name(at), self.ledger.describe(one));
            let other = self.ledger.describe(other);
            self.ledger.wrong(Check::CircularFlow, format!("{name} reads {one}, behind its own {other}"));
        }
    }

    /// What a transaction reads behind a record of its own, though that is open.
    fn behind_own(
        &self,
        transaction: &Transaction,
        poll: &super::ledger::Poll,
    ) -> impl Iterator<Item = (usize, usize)> {
        let first = transaction.records.iter().copied().find(|record| {
            let Record { partition, sent, place, .. } = &self.ledger.records[*record];
            *partition == poll.partition && *sent < poll.at && place.is_some()
        });
        let (partition, last) = (poll.partition, poll.found.last().copied());
        let place = move |record: usize| self.ledger.records[record].place;
        first.into_iter().filter_map(move |first| {
            let (offset, record) = last.filter(|_| partition == poll.partition)?;
            (place(first) < Some(offset)).then_some((record, first))
        })
    }

    /// A loop makes one thing of each record that it has passed.
    fn loops(&mut self) {
        let mut made: BTreeMap<&Source, Vec<usize>> = BTreeMap::new();
        let mut reached: BTreeMap<&GroupPartition, i64> = BTreeMap::new();
        let committed = self.ledger.transactions.iter().enumerate().filter(|(at, _)| self.is_committed[*at]);
        for (_, transaction) in committed {
            for record in &transaction.records {
                if let Some(source) = &self.ledger.records[*record].source {
                    made.entry(source).or_default().push(*record);
                }
            }
            for (group, offset) in &transaction.offsets {
                let reached = reached.entry(group).or_default();
                *reached = (*reached).max(*offset);
            }
        }
        let mut wrong = Vec::new();
        for (source, records) in &made {
            if let [first, second, ..] = records.as_slice() {
                let (first, second) = (self.ledger.describe(*first), self.ledger.describe(*second));
                let Source { group, partition, offset } = source;
                let what = format!("{group} has made of {offset} of {partition}: {first}; and {second}");
                wrong.push((Check::Duplicate, what));
            }
        }
        let is_loop = |group: &GroupPartition| made.keys().any(|source| source.group == group.0);
        for (group, reached) in reached.iter().filter(|(group, _)| is_loop(group)) {
            let partition = &self.ledger.partitions[group.1];
            for (offset, record) in self.ledger.places[group.1].range(..reached) {
                let source = Source { group: group.0.clone(), partition: partition.clone(), offset: *offset };
                if self.is_committed[self.ledger.records[*record].transaction] && !made.contains_key(&source)
                {
                    let what = self.ledger.describe(*record);
                    let what = format!("{} is at {reached}, and has made nothing of {what}", group.0);
                    wrong.push((Check::Torn, what));
                }
            }
        }
        wrong.into_iter().for_each(|(check, what)| self.ledger.wrong(check, what));
    }

    fn verdict(self, events: usize) -> Verdict {
        let mut verdict = Verdict {
            events,
            clients: self.ledger.clients.len(),
            sent: self.ledger.records.len(),
            read: self.ledger.polls.iter().map(|poll| poll.found.len()).sum(),
            ..Verdict::default()
        };
        let transactions = self.ledger.transactions.iter().zip(&self.is_committed);
        for (transaction, is_committed) in transactions.filter(|(transaction, _)| transaction.number > 0) {
            let count = match (transaction.outcome, is_committed) {
                (Outcome::Ok, _) => &mut verdict.committed,
                (Outcome::Failed, _) => &mut verdict.aborted,
                (Outcome::Unknown, true) => &mut verdict.unknown_committed,
                (Outcome::Unknown, false) => &mut verdict.unknown_aborted,
            };
            *count += 1;
        }
        verdict.anomalies = self.ledger.anomalies;
        verdict.anomalies.sort_by_key(|anomaly| anomaly.check);
        verdict
    }
}
