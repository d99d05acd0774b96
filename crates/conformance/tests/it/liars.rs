//! The checkers are checked: each lie is told by the behaviours that are named here, and each behaviour tells of one.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_conformance::{ALL, Behaviour, Ground, Liar, Lie, Line, Network, Nodes, Verdict};
use anabranch_core::engine::{Engine, EngineError};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::embedded::{DIRECTORY, Embedded, runtime};

/// Names a child's lie.
const LIE: &str = "ANABRANCH_CONFORMANCE_LIE";

/// Who tells of which lie.
const TELL: &[(Lie, &[&str])] = &[
    (
        Lie::SwapsRecords,
        &["records_come_back_as_they_went", "batches_and_records_are_the_same", "every_codec_is_read"],
    ),
    (
        Lie::ShowsRecordsSwapped,
        &[
            "order_is_that_of_acknowledgements",
            "a_position_names_its_record",
            "many_readers_see_the_same",
            "written_is_read_too",
        ],
    ),
    (
        Lie::LosesAppends,
        &[
            "appends_under_way_keep_their_order",
            "a_thousand_appends_at_once",
            "two_writers_keep_their_orders",
            "a_reader_goes_on_and_seeks",
            "acknowledged_survives_a_nodes_death",
            "back_again_goes_on",
        ],
    ),
    (
        Lie::StoresTwice,
        &[
            "order_is_that_of_acknowledgements",
            "what_the_engine_sends_again_is_stored_once",
            "back_again_goes_on",
            "a_thousand_appends_at_once",
        ],
    ),
    (Lie::StoresLater, &["appends_under_way_keep_their_order"]),
    (
        Lie::ForgetsWrittenAppends,
        &["written_is_read_too", "written_survives_the_clients_death", "all_is_there_after_closing"],
    ),
    (
        Lie::TellsWrongPlaces,
        &["an_append_tells_where_its_records_are", "earliest_and_latest_are_the_bounds", "a_time_is_found"],
    ),
    (
        Lie::TellsWrongLatest,
        &[
            "earliest_and_latest_are_the_bounds",
            "records_come_back_as_they_went",
            "trimmed_to_the_end_is_empty",
        ],
    ),
    (
        Lie::TellsTooLate,
        &[
            "earliest_and_latest_are_the_bounds",
            "a_time_after_all_is_the_end",
            "the_end_is_reached_behind_what_is_not_shown",
        ],
    ),
    (Lie::DropsAHeader, &["headers_repeat_in_order", "records_come_back_as_they_went"]),
    (Lie::SortsHeaders, &["headers_repeat_in_order", "values_of_headers_are_bytes"]),
    (Lie::TakesHeadersForText, &["values_of_headers_are_bytes"]),
    (Lie::CleansHeaderNames, &["names_of_headers_are_any_text"]),
    (Lie::TurnsNullIntoEmpty, &["empty_is_not_null", "records_come_back_as_they_went"]),
    (Lie::TakesValuesForText, &["keys_and_values_are_bytes", "records_come_back_as_they_went"]),
    (Lie::ChangesTimestamps, &["timestamps_come_back_or_are_refused"]),
    (Lie::MakesUpTimestamps, &["a_record_needs_no_timestamp"]),
    (Lie::DropsTheTimestampType, &["the_engines_time_is_shown_where_it_is_asked_for"]),
    (Lie::ReadsNoCodecs, &["every_codec_is_read"]),
    (Lie::MakesBatchesAnew, &["a_batch_comes_back_byte_by_byte"]),
    (Lie::TakesAnyBytes, &["what_is_no_batch_is_refused"]),
    (Lie::TellsLargerLimits, &["the_largest_record_passes"]),
    (Lie::StoresBeforeItRefuses, &["too_large_is_told_and_nothing_stored"]),
    (Lie::CutsAppends, &["many_records_in_one_append"]),
    (Lie::SplitsAppends, &["an_append_is_whole"]),
    (Lie::SkipsAfterASeek, &["a_reader_goes_on_and_seeks"]),
    (Lie::ReadsOnce, &["any_position_is_read_again", "many_readers_see_the_same"]),
    (Lie::FindsNoTimes, &["a_time_is_found"]),
    (Lie::FindsLaterTimes, &["a_time_is_found"]),
    (Lie::FindsTimesThatAreNotThere, &["a_time_after_all_is_the_end"]),
    (Lie::NeverWakes, &["a_read_waits_and_wakes", "partitions_are_apart"]),
    (Lie::NeverWaits, &["a_read_in_vain_ends", "a_take_in_vain_ends"]),
    (Lie::ReadsTooMuch, &["a_read_is_no_larger_than_asked"]),
    (Lie::ReadsElsewhere, &["what_is_out_of_range_is_told", "what_is_old_goes", "trim_moves_the_start"]),
    (Lie::MovesOnErrors, &["what_is_out_of_range_is_told"]),
    (Lie::MixesPartitions, &["partitions_are_apart", "a_topic_is_there_when_it_was_created"]),
    (Lie::LosesDroppedReads, &["a_dropped_read_loses_nothing"]),
    (Lie::StaysBehindTheLastRecord, &["the_end_is_reached_behind_what_is_not_shown"]),
    (
        Lie::AnswersBeforeStoring,
        &["durable_survives_the_clients_death", "written_survives_the_clients_death"],
    ),
    (
        Lie::ForgetsWhenReopened,
        &[
            "all_is_there_after_closing",
            "committed_is_there_after_closing",
            "positions_are_durable",
            "trimmed_stays_trimmed",
        ],
    ),
    (Lie::DoesNotSync, &["power_loss_is_told_as_it_is"]),
    (Lie::ForgetsIds, &["an_id_is_stored_once"]),
    (Lie::TellsNoDuplicates, &["an_id_is_stored_once"]),
    (Lie::ComparesNothing, &["an_expected_end_is_compared", "of_ten_rivals_one_wins"]),
    (Lie::ComparesTooEarly, &["of_ten_rivals_one_wins"]),
    (
        Lie::IgnoresConditions,
        &["what_is_absent_is_refused_by_type", "an_id_is_stored_once", "an_expected_end_is_compared"],
    ),
    (
        Lie::CommitsOneByOne,
        &[
            "nothing_of_a_commit_that_failed_is_shown",
            "no_reader_sees_a_part",
            "a_dropped_commit_is_whole",
            "what_is_no_batch_is_refused_in_a_commit",
            "too_large_is_told_in_a_commit",
            "an_older_producer_is_fenced",
        ],
    ),
    (
        Lie::ForgetsPositionsInCommits,
        &[
            "records_and_positions_are_committed_together",
            "positions_in_a_commit_are_the_groups",
            "a_commit_may_be_of_nothing",
            "a_killed_producer_leaves_all_or_nothing",
        ],
    ),
    (Lie::StoresPositionsOfFailures, &["nothing_of_a_commit_that_failed_is_shown"]),
    (Lie::TellsPlacesInReverse, &["a_commit_tells_where_its_records_are"]),
    (Lie::CommitsForAZombie, &["an_older_producer_is_fenced"]),
    (
        Lie::BreaksAfterAnError,
        &[
            "nothing_of_a_commit_that_failed_is_shown",
            "what_is_no_batch_is_refused_in_a_commit",
            "too_large_is_told_in_a_commit",
        ],
    ),
    (Lie::TakesAllIdsForOne, &["producers_of_two_ids_live_together"]),
    (
        Lie::AnswersBeforeCommitting,
        &[
            "records_and_positions_are_committed_together",
            "a_killed_producer_leaves_all_or_nothing",
            "committed_is_there_after_closing",
            "closed_is_told_to_producers",
        ],
    ),
    (Lie::CommitsWhatIsDroppedAgain, &["a_dropped_commit_is_whole"]),
    (
        Lie::LosesTransactions,
        &["records_and_positions_are_committed_together", "what_is_absent_is_refused_by_type"],
    ),
    (
        Lie::AssignsAllToAll,
        &[
            "partitions_are_shared",
            "no_partition_is_two_members",
            "who_joins_gets_a_part",
            "members_of_two_clients_share",
            "what_is_anothers_is_not_committed",
            "who_is_dropped_is_missed",
        ],
    ),
    (
        Lie::ForgetsPositions,
        &[
            "a_group_goes_on_where_it_stands",
            "a_position_may_go_back",
            "positions_survive_a_members_death",
            "a_member_reads_several_topics",
        ],
    ),
    (Lie::KeepsTheHighestPosition, &["a_position_may_go_back"]),
    (Lie::CommitsTheFirstPositionOnly, &["a_member_reads_several_topics"]),
    (
        Lie::AnswersBeforeCommittingPositions,
        &["a_group_goes_on_where_it_stands", "positions_are_durable", "positions_survive_a_members_death"],
    ),
    (
        Lie::StaysWhenItLeaves,
        &["who_leaves_gives_up_at_once", "more_members_than_partitions", "who_leaves_gives_back_at_once"],
    ),
    (Lie::StaysWhenDropped, &["who_is_dropped_is_missed", "who_is_dropped_gives_back"]),
    (Lie::DropsCommitsOfRevoked, &["revoked_is_ones_own_until_the_next_call"]),
    (Lie::TellsLostForRevoked, &["revoked_is_ones_own_until_the_next_call"]),
    (Lie::CommitsForOthers, &["what_is_anothers_is_not_committed"]),
    (
        Lie::MixesGroups,
        &["groups_do_not_mix", "two_groups_read_the_same_at_once", "two_groups_each_get_everything"],
    ),
    (Lie::LosesDroppedEvents, &["an_event_may_be_dropped"]),
    (Lie::RepeatsEvents, &["an_event_may_be_dropped"]),
    (Lie::JoinsTheFirstTopicOnly, &["a_member_reads_several_topics"]),
    (Lie::LosesQueues, &["each_record_goes_to_one_consumer"]),
    (Lie::GivesAllToEach, &["each_record_goes_to_one_consumer"]),
    (Lie::HandsOutTwice, &["a_dropped_next_loses_nothing"]),
    (Lie::HandsOutBackwards, &["new_records_come_in_order"]),
    (
        Lie::ForgetsSettlements,
        &[
            "each_record_goes_to_one_consumer",
            "what_is_accepted_stays_away",
            "what_is_accepted_survives_the_consumers_death",
            "a_queue_goes_on_when_the_engine_is_back",
            "no_more_are_unsettled_than_asked_for",
        ],
    ),
    (Lie::AnswersBeforeSettling, &["what_is_accepted_survives_the_consumers_death"]),
    (
        Lie::TakesReleasedForDone,
        &["what_is_released_comes_again", "what_is_delivered_too_often_is_a_dead_letter"],
    ),
    (Lie::ReleasesAtOnce, &["what_is_released_for_later_comes_later"]),
    (
        Lie::CountsNothing,
        &["what_is_released_comes_again", "the_dead_give_back", "what_is_not_settled_comes_again"],
    ),
    (Lie::NeverTakesBack, &["what_is_not_settled_comes_again"]),
    (Lie::IsNeverTooLate, &["what_is_not_settled_comes_again"]),
    (Lie::ExtendsNothing, &["what_is_extended_stays"]),
    (
        Lie::DropsRejected,
        &["what_is_rejected_is_a_dead_letter", "a_dead_letter_that_does_not_fit_is_there_in_part"],
    ),
    (Lie::BuriesWithoutAWord, &["what_is_rejected_is_a_dead_letter"]),
    (Lie::BuriesTwice, &["what_is_rejected_is_a_dead_letter"]),
    (Lie::NeverBuries, &["what_is_delivered_too_often_is_a_dead_letter"]),
    (Lie::HandsOutTooMany, &["no_more_are_unsettled_than_asked_for"]),
    (Lie::HandsOutOneByOne, &["one_slow_record_holds_no_other", "what_is_released_for_later_comes_later"]),
    (Lie::DropsDeliveryTimes, &["what_is_for_later_is_delivered_later", "what_has_expired_is_a_dead_letter"]),
    (Lie::LosesDroppedTakes, &["a_dropped_next_loses_nothing"]),
    (Lie::TakesTooMuch, &["a_take_is_no_larger_than_asked"]),
    (Lie::TakesAnySpec, &["bad_queues_are_refused"]),
    (Lie::CreatesEveryTime, &["creating_twice_is_once", "ten_at_once_create_one"]),
    (Lie::TakesAnyPartitionCount, &["creating_twice_is_once"]),
    (Lie::CreatesLate, &["a_topic_is_there_when_it_was_created"]),
    (Lie::DropsUnknownSettings, &["bad_names_and_settings_are_refused"]),
    (Lie::CreatesWhatIsMissing, &["no_topic_is_not_found", "bad_queues_are_refused"]),
    (Lie::WrapsPartitions, &["no_partition_is_not_found"]),
    (
        Lie::NeverCompacts,
        &["compaction_keeps_the_newest", "a_deleted_key_stays_deleted", "what_is_compacted_has_keys"],
    ),
    (Lie::CompactsTooMuch, &["compaction_keeps_the_newest"]),
    (Lie::ShowsDeletedKeys, &["a_deleted_key_stays_deleted"]),
    (Lie::NeverForgets, &["what_is_old_goes", "what_is_too_much_goes"]),
    (Lie::TrimsTooMuch, &["trim_moves_the_start"]),
    (Lie::TrimsNothing, &["trim_moves_the_start", "trimmed_to_the_end_is_empty", "trimmed_stays_trimmed"]),
    (Lie::TrimsBehindTheEnd, &["trim_goes_no_further_than_the_end"]),
    (Lie::HidesPartitions, &["topics_are_described"]),
    (Lie::ChangesSettingsInPart, &["settings_are_changed_one_by_one"]),
    (Lie::AddsNoPartitions, &["partitions_are_added"]),
    (Lie::EmptiesDeletedTopics, &["a_deleted_topic_is_gone"]),
    (Lie::HidesGroups, &["groups_are_described"]),
    (Lie::MovesGroupsForwardOnly, &["a_group_without_members_is_moved"]),
    (Lie::KeepsDeletedGroups, &["a_deleted_group_stands_nowhere"]),
    (Lie::DeclaresTooMuch, &["the_description_is_of_one_engine"]),
    (Lie::DeclaresTooLittle, &["trim_moves_the_start", "what_is_absent_is_refused_by_type"]),
    (
        Lie::HidesTransactions,
        &["records_and_positions_are_committed_together", "what_is_absent_is_refused_by_type"],
    ),
    (Lie::NamesTheFirstThatIsMissing, &["all_that_is_missing_is_named"]),
    (Lie::StoresWhatIsDroppedAgain, &["an_append_may_be_dropped"]),
    (Lie::BreaksWhenDropped, &["whatever_is_dropped_may_be_called_again"]),
    (
        Lie::HangsWhenClosed,
        &[
            "closed_is_told",
            "closed_is_told_to_members",
            "closed_is_told_to_producers",
            "closed_is_told_to_queues",
        ],
    ),
    (
        Lie::FailsWhenClosed,
        &[
            "closed_is_told",
            "closed_is_told_to_members",
            "closed_is_told_to_producers",
            "closed_is_told_to_queues",
        ],
    ),
    (Lie::HangsAtClose, &["closed_is_told", "closing_ends_what_is_under_way"]),
    (Lie::StoresInTheBackground, &["closing_ends_what_is_under_way"]),
    // The engine is inside of the process: it is not away when its network is said to be cut, and lives when its nodes are
    // said to be dead.
    (Lie::None, &["away_is_told", "acknowledged_survives_the_loss_of_a_node"]),
];

/// Who tells of no lie here, since the embedded engine is in one process.
const IDLE: &[&str] =
    &["a_halted_producer_is_fenced", "a_halted_member_is_fenced", "a_halted_consumer_is_too_late"];

/// The embedded engine, lied about. Its network and nodes are not there: cutting and killing them does nothing.
#[derive(Debug)]
struct Lying {
    ground: Embedded,
    lie: Lie,
    patience: Duration,
    was_released: AtomicBool,
    /// One for all clients, as the engine is.
    open: Mutex<Option<Liar>>,
}

impl Lying {
    fn new(ground: Embedded, lie: Lie, patience: Duration) -> Self {
        Self { ground, lie, patience, was_released: AtomicBool::default(), open: Mutex::default() }
    }
}

#[async_trait]
impl Ground for Lying {
    async fn open(&self, client: &str) -> Result<Arc<dyn Engine>, EngineError> {
        let engine = self.ground.open(client).await?;
        let liar = || Liar::new(engine, self.lie, self.was_released.load(Ordering::SeqCst));
        Ok(Arc::new(self.open.lock().get_or_insert_with(liar).clone()))
    }

    async fn release(&self) {
        self.was_released.store(true, Ordering::SeqCst);
        *self.open.lock() = None;
        self.ground.release().await;
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn syncs(&self) -> Option<bool> {
        Some(self.lie != Lie::DoesNotSync)
    }

    fn ageing(&self) -> Option<Vec<(&'static str, &'static str)>> {
        self.ground.ageing()
    }

    fn network(&self) -> Option<&dyn Network> {
        Some(self)
    }

    fn nodes(&self) -> Option<&dyn Nodes> {
        Some(self)
    }

    fn child(&self) -> Option<Command> {
        let mut command = self.ground.child_of("liars::child");
        command.env(LIE, format!("{:?}", self.lie));
        Some(command)
    }
}

impl Network for Lying {
    fn cut(&self, _: &str) {}

    fn mend(&self, _: &str) {}
}

#[async_trait]
impl Nodes for Lying {
    fn count(&self) -> u32 {
        // As many as the description tells, but where it must be more than one.
        if self.lie == Lie::None { 3 } else { 1 }
    }

    async fn kill(&self, _: u32) {}

    async fn start(&self, _: u32) {}
}

/// Not a test of its own: the process that behaviours start, and kill.
#[test]
fn child() {
    let (Ok(lie), Some(_)) = (std::env::var(LIE), std::env::var_os(DIRECTORY)) else { return };
    let lie = Lie::named(&lie).unwrap();
    let ground = Lying::new(Embedded::of_parent().unwrap(), lie, Duration::from_secs(60));
    runtime().block_on(anabranch_conformance::play(&ground));
}

fn named(name: &str) -> &'static Behaviour {
    ALL.iter().find(|behaviour| behaviour.name == name).unwrap_or_else(|| panic!("no behaviour {name}"))
}

/// Runs the behaviours, some at once.
fn run(what: impl Iterator<Item = (Lie, &'static Behaviour)>, patience: Duration) -> Vec<(Lie, Line)> {
    let runs = stream::iter(what).map(async |(lie, behaviour)| {
        let ground: Arc<dyn Ground> = Arc::new(Lying::new(Embedded::new(), lie, patience));
        (lie, anabranch_conformance::run(behaviour, &ground).await)
    });
    let runtime = runtime();
    let lines = runtime.block_on(runs.buffer_unordered(8).collect());
    runtime.shutdown_background();
    lines
}

#[test]
fn every_lie_is_told() {
    let pairs = TELL.iter().flat_map(|(lie, tellers)| tellers.iter().map(|name| (*lie, named(name))));
    let mut lines = run(pairs, Duration::from_secs(4));
    lines.sort_by_key(|(lie, _)| *lie);
    for (lie, line) in &lines {
        let detail: String = line.detail.chars().take(150).collect();
        println!("{lie:?}: {} is {}: {detail}", line.behaviour, line.verdict);
    }
    let missed: Vec<_> = lines
        .iter()
        .filter(|(_, line)| !line.verdict.fails())
        .map(|(lie, line)| format!("{lie:?} is not told by {}", line.behaviour))
        .collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_behaviour_tells_of_a_lie_and_every_lie_is_told_of() {
    let idle: Vec<_> = ALL
        .iter()
        .map(|behaviour| behaviour.name)
        .filter(|name| !TELL.iter().any(|(_, tellers)| tellers.contains(name)))
        .collect();
    assert_eq!(idle, IDLE, "no lie is known that these tell of");
    let untold: Vec<_> = Lie::ALL
        .iter()
        .filter(|lie| !matches!(lie, Lie::None | Lie::ComparesHonestly))
        .filter(|lie| !TELL.iter().any(|(told, _)| told == *lie))
        .collect();
    assert!(untold.is_empty(), "nobody is said to tell of {untold:?}");
}

/// What is wrapped and not lied about passes, so that a lie is told for what it is.
#[test]
fn the_honest_pass() {
    let honest = |name: &&str| !TELL.iter().any(|(lie, tellers)| *lie == Lie::None && tellers.contains(name));
    let of_nodes = ["the_description_is_of_one_engine"];
    let plain = ALL.iter().filter(|behaviour| !IDLE.contains(&behaviour.name));
    let plain = plain.filter(|behaviour| honest(&behaviour.name) && !of_nodes.contains(&behaviour.name));
    let conditional = ["an_id_is_stored_once", "an_expected_end_is_compared", "of_ten_rivals_one_wins"];
    let pairs = plain.filter(|behaviour| !conditional.contains(&behaviour.name)).map(|one| (Lie::None, one));
    let pairs = pairs.chain(conditional.iter().map(|name| (Lie::ComparesHonestly, named(name))));
    let lines = run(pairs, Duration::from_secs(60));
    let failed: Vec<_> = lines.iter().filter(|(_, line)| line.verdict != Verdict::Kept).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
