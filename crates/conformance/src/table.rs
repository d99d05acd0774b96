//! The one table of behaviours: group, name, what it needs, what it witnesses, and the promise.

use anabranch_core::engine::Capability;
use futures::future::LocalBoxFuture;

use crate::stage::{Outcome, Stage};

/// One promise of the seam, and the function that finds out.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// The module that it stands in.
    pub group: &'static str,
    /// The function's and the test's name.
    pub name: &'static str,
    /// In a sentence.
    pub promise: &'static str,
    /// What an engine must have, or nothing is promised.
    pub needs: &'static [Capability],
    /// The one of them that this decides on: an engine that says it lacks it must fail here. Only what comes to the same every
    /// time is a witness.
    pub witness: Option<Capability>,
    /// Finds out.
    pub run: fn(&Stage) -> LocalBoxFuture<'_, Outcome>,
}

/// Hands the table to another macro, behind what is given.
#[macro_export]
macro_rules! behaviours {
    ($use:path $(, $given:tt)*) => { $use! { $($given)*
        log {
            records_come_back_as_they_went [] "Keys, values, headers and timestamps of a thousand random records are read as they were appended."
            batches_and_records_are_the_same [] "A batch is read as the records in it, and takes up as many positions."
            order_is_that_of_acknowledgements [] witness PartitionOrder "What was appended after the one before was acknowledged is read behind it, whoever appended it."
            appends_under_way_keep_their_order [PartitionOrder] "Of appends that are under way together, the one that was called first is stored first."
            two_writers_keep_their_orders [PartitionOrder] "Two clients' records mix, and each one's keep their order."
            written_is_read_too [] "Appends that are acknowledged when written, and when durable, come into one order."
            an_append_tells_where_its_records_are [] "Reading from where an append is told to begin gives its records first, and they end before where it is told to end."
            a_position_names_its_record [] "Reading from a record's position gives that record first; positions grow."
            any_position_is_read_again [] witness Replay "The rest from any position is the same, however often it is read."
            a_reader_goes_on_and_seeks [Replay] "A reader goes on where it is, and after a seek reads from there, forwards and backwards."
            earliest_and_latest_are_the_bounds [] "The earliest place is the first record's, the latest is behind the last; they are the same where there is nothing."
            a_time_is_found [] witness ReplayByTime "A time is the place of the first record that is at least as new, also where times do not grow."
            a_time_after_all_is_the_end [ReplayByTime] "A time later than every record's is the latest place."
            a_read_waits_and_wakes [] "A read at the end returns when there is something to read, long before its wait is over."
            a_read_in_vain_ends [] "A read at the end gives nothing when its wait is over, and not before; the position stays."
            a_read_is_no_larger_than_asked [] "No read brings more bytes than asked for, but for a first batch or record that is larger itself."
            what_is_out_of_range_is_told [] "A read behind the latest place fails with the bounds, the position stays, and the reader can go on elsewhere."
            many_readers_see_the_same [] "Twenty readers of one partition, at different places, each see the same."
            partitions_are_apart [] "Partitions have their own records and positions, and readers of one are in no other's way."
            a_dropped_read_loses_nothing [] "A read whose future is dropped is as if it had not been called."
        }
        records {
            headers_repeat_in_order [] "Names of headers may repeat, and all come back in their order."
            values_of_headers_are_bytes [] "Values of headers are any bytes, line ends and NUL among them; empty and null differ."
            names_of_headers_are_any_text [] "Names of headers may have spaces, colons, line ends and letters of any script."
            empty_is_not_null [] "Empty and null differ in keys and in values."
            keys_and_values_are_bytes [] "Keys and values are any bytes, and may be long."
            timestamps_come_back_or_are_refused [] "A timestamp comes back as it was, or its record is refused: none is changed."
            a_record_needs_no_timestamp [] "A record without a timestamp is stored, with none or that of its append."
            the_engines_time_is_shown_where_it_is_asked_for [] "With message.timestamp.type=LogAppendTime the time of the append is shown, or the topic is refused."
            the_largest_record_passes [] "A record of the size that the limits tell passes."
            too_large_is_told_and_nothing_stored [] "What is beyond a limit that is told is too large by type, and nothing of its append is stored."
            many_records_in_one_append [] "As many records as the limits tell, or five thousand, go into one append."
            every_codec_is_read [] "Batches in every codec of Kafka's are read as their records."
            a_batch_comes_back_byte_by_byte [] witness VerbatimBatches "A batch is read as the bytes that were appended, but for base offset and leader epoch."
            what_is_no_batch_is_refused [] "Bytes that are not exactly one batch, with its checksum, are refused by type, and nothing is stored."
        }
        durability {
            durable_survives_the_clients_death [] "All that was acknowledged as durable is there after kill -9 of the client, in order and once."
            written_survives_the_clients_death [] "All that was acknowledged as written is there after kill -9 of the client."
            all_is_there_after_closing [] "Records, positions and topics are the same after all was closed and opened again."
            acknowledged_survives_a_nodes_death [] "All that was acknowledged is there after kill -9 of every node, when they are started again."
            acknowledged_survives_the_loss_of_a_node [] witness SurvivesNodeLoss "All that was acknowledged is read while a node that was killed stays away."
            power_loss_is_told_as_it_is [] witness SurvivesPowerLoss "What is told of power loss is what the nodes' settings come to."
            what_the_engine_sends_again_is_stored_once [] witness IdempotentAppend "While the network is cut and mended under appends, each is stored once and in order."
            an_id_is_stored_once [] witness AppendIds "A second append with the same id is told as a duplicate, at the first one's place, and not stored."
            an_expected_end_is_compared [] witness ConditionalAppend "An append that expects another end than there is fails by type, and stores nothing."
            of_ten_rivals_one_wins [ConditionalAppend] "Of ten appends that expect the same end one is stored."
            an_append_is_whole [AtomicAppend] "Nothing is between the records of one append, and no latest place is."
        }
        transactions {
            records_and_positions_are_committed_together [Groups] witness Transactions "When a commit returns, its records in all partitions and the group's positions are there."
            a_commit_tells_where_its_records_are [Transactions] "A commit tells the place of each of its appends, in order."
            nothing_of_a_commit_that_failed_is_shown [Groups Transactions] "Nothing of a commit that failed is ever shown, its positions are not the group's, and the producer goes on."
            what_is_no_batch_is_refused_in_a_commit [Transactions] "Bytes that are no batch are refused by type, nothing is shown, and the producer goes on."
            too_large_is_told_in_a_commit [Transactions] "What is beyond a limit is too large by type, nothing is shown, and the producer goes on."
            a_commit_may_be_of_nothing [Groups Transactions] "A commit may be of nothing, or of positions alone."
            no_reader_sees_a_part [Transactions] "No read and no latest place cuts through a transaction, while some are committed and some fail."
            the_end_is_reached_behind_what_is_not_shown [Transactions] "A reader comes to every latest place, also behind what is not shown, and goes on there."
            an_older_producer_is_fenced [Groups Transactions] "A producer whose id was taken is told so, and nothing that it commits is shown or stored as positions."
            a_halted_producer_is_fenced [Groups Transactions] "A producer whose process was halted until another took its id commits nothing when it goes on."
            producers_of_two_ids_live_together [Transactions] "Producers of different ids commit to one partition by turns."
            a_dropped_commit_is_whole [Transactions] "A commit whose future is dropped happens or not, as a whole, and the next one comes after it."
            a_killed_producer_leaves_all_or_nothing [Groups Transactions] "After kill -9 of a producer each of its commits is there as a whole or not, those that were acknowledged are, and the next producer of the id goes on."
            committed_is_there_after_closing [Groups Transactions] "What was committed is there after all was closed and opened again."
            positions_in_a_commit_are_the_groups [Groups Transactions] "Positions that are committed with records replace those that members committed, and leave the others."
        }
        groups {
            partitions_are_shared [] witness Groups "Three members share six partitions, and each partition is one member's."
            no_partition_is_two_members [Groups] "While members join, no partition is assigned to one before another was told that it is no longer its own."
            a_group_goes_on_where_it_stands [Groups] "A new group has no positions, and a later member is told those that were committed."
            a_position_may_go_back [Groups] "The position that was committed last counts, also when it is smaller."
            who_joins_gets_a_part [Groups] "A member that joins gets partitions of the one that had all."
            who_leaves_gives_up_at_once [Groups] "When a member leaves, the other gets all."
            who_is_dropped_is_missed [Groups] "When a member is dropped, the other gets all in the end."
            revoked_is_ones_own_until_the_next_call [Groups] "Positions that a member commits for what is being revoked are where the next owner begins."
            what_is_anothers_is_not_committed [Groups] witness GroupFencing "A member's commit for a partition that it lost to another fails by type, and the position stays."
            a_halted_member_is_fenced [Groups GroupFencing] "A member whose process was halted until another took over cannot commit when it goes on."
            groups_do_not_mix [Groups] "Two groups have their own positions in one partition."
            two_groups_read_the_same_at_once [Groups] "Members of two groups are assigned the same partitions."
            positions_are_durable [Groups] "A position that was committed is there after all was closed and opened again."
            positions_survive_a_members_death [Groups] "A position that was committed is there after kill -9 of the member."
            an_event_may_be_dropped [Groups] "A wait for an event may be dropped after any poll, and nothing is lost or told twice."
            more_members_than_partitions [Groups] "Who has no partition waits, and takes over when the other leaves."
            a_member_reads_several_topics [Groups] "A member of several topics is assigned the partitions of each, with the group's position in each."
            members_of_two_clients_share [Groups] "Members of one group in two clients share its partitions."
        }
        queue {
            each_record_goes_to_one_consumer [] witness Queue "Of three consumers one accepts each record, and nothing comes when all are accepted."
            new_records_come_in_order [Queue] "A partition's records come to its only consumer in their order, as they are in the log, each with a ticket of its own."
            what_is_accepted_stays_away [Queue] "What was accepted does not come again, and all else does, after all was closed and opened again."
            what_is_accepted_survives_the_consumers_death [Queue] "What was accepted does not come again after kill -9 of its consumer right after that was told."
            what_is_released_comes_again [Queue] "A record that is released comes again, with a higher count and another ticket."
            what_is_released_for_later_comes_later [Queue] witness DelayedRelease "A record that is released with a delay comes no sooner, and others come meanwhile."
            the_dead_give_back [Queue] "What a consumer had when it was killed comes again, with a higher count."
            what_is_not_settled_comes_again [Queue] "What is not settled in time comes again, and a later settlement is too late and does nothing."
            what_is_extended_stays [Queue] "What is extended again and again does not come again."
            who_leaves_gives_back_at_once [Queue] "What a consumer that leaves had comes again at once, with a higher count."
            who_is_dropped_gives_back [Queue] "What a consumer that is dropped had comes again in the end."
            what_is_rejected_is_a_dead_letter [Queue] witness DeadLetters "What is rejected is in the topic of dead letters once, with reason, group, count, source and all that it was."
            a_dead_letter_that_does_not_fit_is_there_in_part [Queue DeadLetters] "Of a dead letter that its topic does not take there are where it is from and why, and that something is missing."
            what_is_delivered_too_often_is_a_dead_letter [Queue DeadLetters] "What was delivered as often as it may be and is not accepted becomes a dead letter."
            one_slow_record_holds_no_other [Queue] "While one record stays unsettled, all others come."
            no_more_are_unsettled_than_asked_for [Queue] "No more records of a partition are unsettled at once than the queue allows."
            what_is_for_later_is_delivered_later [Queue] witness DelayedDelivery "A record whose header tells a later time does not come before, and others do."
            what_has_expired_is_a_dead_letter [Queue DeadLetters] witness RecordExpiry "A record whose header tells a time that is over, or none, does not come, and becomes a dead letter."
            a_dropped_next_loses_nothing [Queue] "A wait for records may be dropped after any poll, and none is lost or comes twice."
            two_groups_each_get_everything [Queue] "What one group accepts another one gets as well."
            a_take_is_no_larger_than_asked [Queue] "No more deliveries and bytes come than asked for, but for a first record that is larger itself."
            a_take_in_vain_ends [Queue] "A wait for records gives nothing when it is over, and not before; and ends when there is one."
            bad_queues_are_refused [Queue] "A queue of no topic, or of no sense, is refused, and creates none."
            a_halted_consumer_is_too_late [Queue] "A consumer whose process was halted until another took its record is too late, and does nothing."
            a_queue_goes_on_when_the_engine_is_back [Queue] "When the engine is back the same consumer goes on: all is accepted, and nothing that was accepted comes again."
            closed_is_told_to_queues [Queue] "After close a queue's calls say so."
        }
        topics {
            creating_twice_is_once [] "A topic is created once; with another number of partitions it is different; what is in it stays."
            ten_at_once_create_one [] "Of ten calls that create one topic at once, one did."
            a_topic_is_there_when_it_was_created [] "Whoever creates a topic can use all its partitions when that returns, and others a moment later."
            bad_names_and_settings_are_refused [] "Illegal names, no partitions, unknown settings and bad values are refused, and create nothing."
            no_topic_is_not_found [] "Whatever is asked of a topic that does not exist says so, and creates none."
            no_partition_is_not_found [] "Whatever is asked of a partition that does not exist says so."
            compaction_keeps_the_newest [] witness Compaction "A compacted topic loses older records of a key, and never its newest."
            a_deleted_key_stays_deleted [Compaction] "A key whose newest record is null loses its older ones, and never shows one again."
            what_is_compacted_has_keys [Compaction] "A compacted topic refuses a record without a key."
            what_is_old_goes [] witness Retention "Records older than retention.ms go, and the earliest place moves behind them."
            what_is_too_much_goes [Retention] "Beyond retention.bytes the oldest records go, and the newest stay."
            trim_moves_the_start [] witness Trim "What is before the given position is out of range, the rest is untouched, and the start does not go back."
            trimmed_to_the_end_is_empty [Trim] "A partition that is trimmed to its end is empty, and goes on at the same position."
            trim_goes_no_further_than_the_end [Trim] "Trimming behind the end is out of range, and deletes nothing."
            trimmed_stays_trimmed [Trim] "What was deleted stays deleted after all was closed and opened again."
        }
        admin {
            topics_are_described [] "A topic is listed, and described with its partitions, the nodes that have them, and its settings."
            settings_are_changed_one_by_one [] "Settings are changed, and taken back to their defaults, and others stay; of a change that is refused nothing is made."
            partitions_are_added [] "A topic gets more partitions and keeps its records; fewer are refused."
            a_deleted_topic_is_gone [] "A deleted topic is not found any more, and a new one of its name begins empty."
            groups_are_described [Groups] "A group is listed, and described with its members and what they read; while it has any it is neither moved nor deleted."
            a_group_without_members_is_moved [Groups] "A group without members is moved, also backwards, durably, and its next member goes on from there."
            a_deleted_group_stands_nowhere [Groups] "A deleted group is gone with its positions, and others are not."
        }
        away {
            the_description_is_of_one_engine [] "A description names an engine, its version and cluster, is the same for all clients, and declares nothing that core says the engine never has."
            all_that_is_missing_is_named [] "Requiring everything names all that is absent, and nothing else."
            what_is_absent_is_refused_by_type [] "What needs a capability that is absent is refused by type, and nothing is stored."
            an_append_may_be_dropped [] "An append whose future is dropped is stored once or not at all, and what is called later comes behind it."
            whatever_is_dropped_may_be_called_again [] "A creation or a question whose future is dropped can be called again."
            a_thousand_appends_at_once [] "A thousand appends at once are all stored, in the order of their calls."
            closed_is_told [] "After close every call says so at once, and closing again does no harm."
            closed_is_told_to_members [Groups] "After close a member's calls say so at once."
            closed_is_told_to_producers [Transactions] "After close a producer's calls say so at once."
            closing_ends_what_is_under_way [] "Closing ends reads that wait, and what was acknowledged before is there."
            away_is_told [] "While the engine is away, appends, questions and reads end with an error that says so."
            back_again_goes_on [] "When the engine is back, the same handles go on: nothing is lost, nothing comes twice."
        }
    } };
}

macro_rules! all {
    ($($group:ident { $($name:ident [$($need:ident)*] $(witness $witness:ident)? $promise:literal)* })*) => {
        /// Every behaviour.
        pub const ALL: &[Behaviour] = &[$($(Behaviour {
            group: stringify!($group),
            name: stringify!($name),
            promise: $promise,
            needs: &[$(Capability::$need,)* $(Capability::$witness)?],
            witness: all!(@witness $($witness)?),
            run: |stage| Box::pin($crate::behaviours::$group::$name(stage)),
        }),*),*];
    };
    (@witness) => { None };
    (@witness $witness:ident) => { Some(Capability::$witness) };
}

behaviours!(all);

/// A `#[test]` per behaviour, in a module per group: `conformance_tests!(lay)`, where `lay` is what [`check`](crate::check) takes.
#[macro_export]
macro_rules! conformance_tests {
    ($lay:path) => { $crate::behaviours!($crate::conformance_tests_of, (@lay $lay)); };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests_of {
    ((@lay $lay:path) $($group:ident { $($name:ident [$($need:ident)*] $(witness $witness:ident)? $promise:literal)* })*) => {
        $(mod $group { $(
            #[test]
            fn $name() {
                $crate::check(stringify!($name), $lay);
            }
        )* })*
    };
}
