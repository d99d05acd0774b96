//! A step: one request, in symbols. What they mean is known when it is sent, on each side for itself.
//!
//! The alphabets are small, so that steps meet: two topics, two groups, two transactional ids. Some values are wrong on purpose.

pub mod admin;
pub mod consumer;
pub mod data;
pub mod group;
pub mod migration;
pub mod transaction;

use std::fmt::Debug;

use anabranch_wire::messages::ApiKey;
use anabranch_wire::{Request, Response, api};
use proptest::prelude::*;
use proptest::sample::select;

use crate::side::State;

/// A request in a version.
#[derive(Debug, Clone)]
pub struct Step {
    /// One that both sides serve.
    pub version: i16,
    /// What is asked.
    pub call: Call,
}

/// What is asked, by family.
#[derive(Debug, Clone)]
pub enum Call {
    /// Records.
    Data(data::Data),
    /// Topics, settings, the cluster.
    Admin(admin::Admin),
    /// Classic groups, and offsets.
    Group(group::GroupCall),
    /// Producers' ids, and transactions.
    Transaction(transaction::TransactionCall),
    /// Groups in the consumer protocol.
    Consumer(consumer::ConsumerCall),
}

impl Step {
    /// Which API it is.
    #[must_use]
    pub fn key(&self) -> ApiKey {
        match &self.call {
            Call::Data(call) => call.key(),
            Call::Admin(call) => call.key(),
            Call::Group(call) => call.key(),
            Call::Transaction(call) => call.key(),
            Call::Consumer(call) => call.key(),
        }
    }

    /// The request, for a side of that state.
    #[must_use]
    pub fn request(&self, state: &State) -> Request {
        match &self.call {
            Call::Data(call) => call.request(self.version, state),
            Call::Admin(call) => call.request(self.version, state),
            Call::Group(call) => call.request(self.version, state),
            Call::Transaction(call) => call.request(self.version, state),
            Call::Consumer(call) => call.request(self.version, state),
        }
    }

    /// What its answer tells for later. `request` is what was asked.
    pub fn learn(&self, request: &Request, response: &Response, state: &mut State) {
        match &self.call {
            Call::Data(call) => call.learn(response, state),
            Call::Group(call) => call.learn(response, state),
            Call::Transaction(call) => call.learn(response, state),
            Call::Consumer(call) => call.learn(request, response, state),
            Call::Admin(call) => call.learn(response, state),
        }
    }

    /// Which of a side's connections it takes. A member's requests that may wait have one of their own.
    #[must_use]
    pub fn connection(&self) -> usize {
        match &self.call {
            Call::Group(call) => call.waiting_slot().map_or(0, |slot| 1 + usize::from(slot)),
            _ => 0,
        }
    }

    /// Whether its answer may come only after other requests.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.connection() != 0
    }
}

/// A topic. Partitions are 0 and 1 in `A`, 0 in `B`, unless they are made otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Two partitions at the start.
    A,
    /// One partition at the start.
    B,
    /// Not there at the start.
    Never,
    /// No name.
    Empty,
    /// A name that no file may have.
    Dots,
    /// A name with a blank.
    Illegal,
    /// The one of groups' offsets. To be looked at only: Kafka lets clients write to it, and delete it.
    Internal,
}

/// A group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// One.
    A,
    /// Another.
    B,
    /// Hardly ever joined.
    Never,
    /// No name.
    Empty,
}

/// Where a producer's id is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Of the transactional id A.
    A,
    /// Of the transactional id B.
    B,
    /// Of a producer without transactions.
    Idempotent,
    /// An id that nobody gave.
    Unknown,
}

/// A producer's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochRef {
    /// The newest that it was told.
    Current,
    /// One less.
    Older,
    /// One more.
    Newer,
    /// -1.
    None,
}

/// A producer.
#[derive(Debug, Clone, Copy)]
pub struct Who {
    /// Its id; -1 while it has none.
    pub slot: Slot,
    /// Its epoch.
    pub epoch: EpochRef,
}

/// A transactional id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// The producer's.
    Own,
    /// The other producer's.
    Other,
    /// One that nobody began.
    Never,
    /// "".
    Empty,
    /// Null, or "" where there must be one.
    Null,
}

/// One of the good ones, and now and then a bad one.
pub(crate) fn mostly<T: Debug + Clone + 'static>(
    good: &'static [T],
    bad: &'static [T],
) -> impl Strategy<Value = T> + Clone {
    prop_oneof![93 => select(good), 7 => select(bad)]
}

pub(crate) fn topic() -> impl Strategy<Value = Topic> + Clone {
    use Topic::{A, B, Dots, Empty, Illegal, Never};
    mostly(&[A, A, B], &[Never, Never, Empty, Dots, Illegal])
}

/// Of a topic that need not be there.
pub(crate) fn partition() -> impl Strategy<Value = i32> + Clone {
    mostly(&[0, 0, 1], &[2, -1, i32::MAX])
}

pub(crate) fn place() -> impl Strategy<Value = (Topic, i32)> + Clone {
    // Mostly one that is there.
    prop_oneof![
        5 => select(&[(Topic::A, 0), (Topic::A, 1), (Topic::B, 0)][..]),
        2 => (topic(), partition()),
    ]
}

/// A few places, none twice: what twice means is for the tests of bad input.
pub(crate) fn places(most: usize) -> impl Strategy<Value = Vec<(Topic, i32)>> + Clone {
    proptest::collection::vec(place(), 1..=most).prop_map(|mut places| {
        places.sort_unstable();
        places.dedup();
        places
    })
}

/// By topic, in order.
pub(crate) fn by_topic<T: Clone>(places: &[(Topic, i32, T)]) -> Vec<(Topic, Vec<(i32, T)>)> {
    let mut grouped: Vec<(Topic, Vec<(i32, T)>)> = Vec::new();
    for (topic, partition, what) in places {
        match grouped.iter_mut().find(|(each, _)| each == topic) {
            Some((_, partitions)) => partitions.push((*partition, what.clone())),
            None => grouped.push((*topic, vec![(*partition, what.clone())])),
        }
    }
    grouped
}

pub(crate) fn group() -> impl Strategy<Value = Group> + Clone {
    mostly(&[Group::A, Group::A, Group::B], &[Group::Never, Group::Empty])
}

pub(crate) fn who() -> impl Strategy<Value = Who> + Clone {
    let slot = mostly(&[Slot::A, Slot::A, Slot::B], &[Slot::Idempotent, Slot::Unknown]);
    (slot, epoch()).prop_map(|(slot, epoch)| Who { slot, epoch })
}

pub(crate) fn epoch() -> impl Strategy<Value = EpochRef> + Clone {
    mostly(&[EpochRef::Current], &[EpochRef::Older, EpochRef::Older, EpochRef::Newer, EpochRef::None])
}

pub(crate) fn transaction() -> impl Strategy<Value = Transaction> + Clone {
    use Transaction::{Empty, Never, Null, Other, Own};
    mostly(&[Own], &[Other, Never, Empty, Null])
}

/// In each version that is served.
pub(crate) fn step(key: ApiKey, call: impl Strategy<Value = Call> + 'static) -> BoxedStrategy<Step> {
    let api = api(key as i16).expect("it is in the table");
    (api.served_min..=api.max, call).prop_map(|(version, call)| Step { version, call }).boxed()
}

/// Steps of any family.
pub fn any_step() -> BoxedStrategy<Step> {
    prop_oneof![data::steps(), admin::steps(), group::steps(), transaction::steps(), consumer::steps()]
        .boxed()
}

/// A whole case: mostly of one family, so that it gets somewhere.
pub fn case() -> BoxedStrategy<Vec<Step>> {
    let mixed = |opening: BoxedStrategy<Vec<Step>>, family: BoxedStrategy<Step>| {
        let own = prop_oneof![9 => family, 1 => any_step()];
        (opening, proptest::collection::vec(own, 5..40))
            .prop_map(|(opening, steps)| [opening, steps].concat())
    };
    let idempotent = transaction::init(Slot::Idempotent);
    let transactional = vec![transaction::init(Slot::A), transaction::init(Slot::B)];
    let nothing = || Just(Vec::new()).boxed();
    let mostly = |steps: Vec<Step>| prop_oneof![9 => Just(steps), 1 => Just(Vec::new())].boxed();
    let sometimes = |steps: Vec<Step>| prop_oneof![Just(steps), Just(Vec::new())].boxed();
    prop_oneof![
        2 => mixed(mostly(vec![idempotent]), data::steps()),
        2 => mixed(nothing(), admin::steps()),
        3 => mixed(sometimes(group::opening()), group::steps()),
        4 => mixed(mostly(transactional), transaction::steps()),
        2 => mixed(nothing(), consumer::steps()),
    ]
    .boxed()
}
