//! The lies.

macro_rules! lies {
    ($($(#[doc = $doc:literal])* $lie:ident,)*) => {
        /// What an engine does that it must not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Lie { $($(#[doc = $doc])* $lie,)* }

        impl Lie {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$lie),*];
        }
    };
}

lies! {
    /// None: what is honest passes.
    None,
    /// Two records of an append change places.
    SwapsRecords,
    /// Two records of a read change places.
    ShowsRecordsSwapped,
    /// An append is acknowledged and not stored, now and then.
    LosesAppends,
    /// An append is stored twice, now and then.
    StoresTwice,
    /// An append lets those pass that were called later.
    StoresLater,
    /// Appends that are to be written only are not stored.
    ForgetsWrittenAppends,
    /// An append is told to be one further than it is.
    TellsWrongPlaces,
    /// The latest place is one too early.
    TellsWrongLatest,
    /// The latest place is one too late.
    TellsTooLate,
    /// Headers of the same name are one.
    DropsAHeader,
    /// Headers are in the order of their names.
    SortsHeaders,
    /// Values of headers are text without line ends.
    TakesHeadersForText,
    /// Names of headers are letters.
    CleansHeaderNames,
    /// Null keys and values are empty ones.
    TurnsNullIntoEmpty,
    /// Values are text.
    TakesValuesForText,
    /// The timestamp 0 is another.
    ChangesTimestamps,
    /// What has no timestamp gets an old one.
    MakesUpTimestamps,
    /// The setting of who gives the timestamp is dropped.
    DropsTheTimestampType,
    /// Of compressed batches the first record is stored.
    ReadsNoCodecs,
    /// Batches are made anew.
    MakesBatchesAnew,
    /// Bytes that are no batch are acknowledged.
    TakesAnyBytes,
    /// Limits are told that are larger than they are.
    TellsLargerLimits,
    /// What comes before a record that is too large is stored.
    StoresBeforeItRefuses,
    /// The end of a large append is lost.
    CutsAppends,
    /// The records of an append are stored one by one.
    SplitsAppends,
    /// After a seek a record is skipped.
    SkipsAfterASeek,
    /// What was read once is not shown again.
    ReadsOnce,
    /// A time is the latest place.
    FindsNoTimes,
    /// A record at the very time is not found.
    FindsLaterTimes,
    /// A time behind all is the last record.
    FindsTimesThatAreNotThere,
    /// A read that waits is not woken.
    NeverWakes,
    /// A read does not wait.
    NeverWaits,
    /// A read brings all there is.
    ReadsTooMuch,
    /// A read out of range reads elsewhere.
    ReadsElsewhere,
    /// After an error a reader's position is another.
    MovesOnErrors,
    /// All partitions are one.
    MixesPartitions,
    /// What a dropped read had is lost.
    LosesDroppedReads,
    /// A reader stays behind the last record that is shown.
    StaysBehindTheLastRecord,
    /// What is acknowledged is stored some calls later.
    AnswersBeforeStoring,
    /// What is opened again has lost some of everything.
    ForgetsWhenReopened,
    /// The ground says that its nodes do not sync, and the engine that it survives the loss of power.
    DoesNotSync,
    /// An id is not looked at. (Ids and expected ends are the liar's own.)
    ForgetsIds,
    /// What was stored before is not called a duplicate.
    TellsNoDuplicates,
    /// The expected end is not looked at.
    ComparesNothing,
    /// The expected end is compared some time before the append.
    ComparesTooEarly,
    /// Conditions are honest.
    ComparesHonestly,
    /// Conditions are dropped, where they are absent.
    IgnoresConditions,
    /// A transaction is so many appends.
    CommitsOneByOne,
    /// Positions are not stored with a transaction.
    ForgetsPositionsInCommits,
    /// Positions are stored though a transaction fails.
    StoresPositionsOfFailures,
    /// The positions that a commit does not name are forgotten.
    TellsPlacesInReverse,
    /// A producer that is fenced goes on under its id.
    CommitsForAZombie,
    /// A producer that failed once fails for ever.
    BreaksAfterAnError,
    /// All transactional ids are one.
    TakesAllIdsForOne,
    /// A commit is acknowledged, and made some calls later.
    AnswersBeforeCommitting,
    /// A commit that was dropped is made twice.
    CommitsWhatIsDroppedAgain,
    /// There are transactions, and Engine::transactions gives none.
    LosesTransactions,
    /// Every member is alone in its group.
    AssignsAllToAll,
    /// A member is told no positions.
    ForgetsPositions,
    /// A position does not go back.
    KeepsTheHighestPosition,
    /// A commit of a second partition is dropped.
    CommitsTheFirstPositionOnly,
    /// A commit of a member is acknowledged, and made some calls later.
    AnswersBeforeCommittingPositions,
    /// A member that leaves stays.
    StaysWhenItLeaves,
    /// A member that is dropped stays.
    StaysWhenDropped,
    /// Commits for what is being revoked are dropped.
    DropsCommitsOfRevoked,
    /// What is revoked is told to be lost.
    TellsLostForRevoked,
    /// A commit for what is another's is taken.
    CommitsForOthers,
    /// All groups have the same positions, and members.
    MixesGroups,
    /// An event is lost when the wait for it is dropped.
    LosesDroppedEvents,
    /// The last event is told again.
    RepeatsEvents,
    /// Of several topics the first counts.
    JoinsTheFirstTopicOnly,
    /// Queues are declared, and Engine::queues gives none.
    LosesQueues,
    /// Each consumer of a queue gets all.
    GivesAllToEach,
    /// A record that is out goes out again, with its ticket.
    HandsOutTwice,
    /// Records come in reverse.
    HandsOutBackwards,
    /// What became of deliveries is forgotten.
    ForgetsSettlements,
    /// Settlements are acknowledged, and made some calls later.
    AnswersBeforeSettling,
    /// What is released does not come again.
    TakesReleasedForDone,
    /// Delays of what is released are dropped.
    ReleasesAtOnce,
    /// Every delivery is the first.
    CountsNothing,
    /// What is not settled does not come again.
    NeverTakesBack,
    /// What is settled too late is told to be in time.
    IsNeverTooLate,
    /// Extensions are dropped.
    ExtendsNothing,
    /// What is rejected is no dead letter.
    DropsRejected,
    /// Dead letters have no headers of their own.
    BuriesWithoutAWord,
    /// Dead letters are there twice.
    BuriesTwice,
    /// Deliveries are not limited.
    NeverBuries,
    /// Unsettled records are not limited.
    HandsOutTooMany,
    /// One unsettled record holds all others.
    HandsOutOneByOne,
    /// When records are to be delivered is dropped.
    DropsDeliveryTimes,
    /// What a dropped wait for records had is lost.
    LosesDroppedTakes,
    /// All that there is comes at once.
    TakesTooMuch,
    /// A queue without time to settle is taken.
    TakesAnySpec,
    /// Every call creates the topic.
    CreatesEveryTime,
    /// A topic with another number of partitions will do.
    TakesAnyPartitionCount,
    /// A topic is not there at once.
    CreatesLate,
    /// Settings that are not known are dropped.
    DropsUnknownSettings,
    /// Whoever appends to no topic creates it.
    CreatesWhatIsMissing,
    /// There are as many partitions as anybody asks for.
    WrapsPartitions,
    /// Nothing is compacted.
    NeverCompacts,
    /// Compaction takes the newest record of a key as well.
    CompactsTooMuch,
    /// A key that was deleted has its last value again.
    ShowsDeletedKeys,
    /// Nothing is too old, or too much.
    NeverForgets,
    /// Trimming deletes everything.
    TrimsTooMuch,
    /// Trimming deletes nothing.
    TrimsNothing,
    /// Trimming behind the end trims to the end.
    TrimsBehindTheEnd,
    /// An operator is shown the first partition only.
    HidesPartitions,
    /// Of a change that is refused the first settings are made.
    ChangesSettingsInPart,
    /// Partitions are not added.
    AddsNoPartitions,
    /// A deleted topic is an empty one.
    EmptiesDeletedTopics,
    /// Groups that have members are not listed.
    HidesGroups,
    /// A group is moved forward, and not back.
    MovesGroupsForwardOnly,
    /// A deleted group stands where it stood.
    KeepsDeletedGroups,
    /// A capability is declared that is not there.
    DeclaresTooMuch,
    /// A capability is there and declared absent.
    DeclaresTooLittle,
    /// Transactions are there and declared absent.
    HidesTransactions,
    /// Of all that is missing the first is named.
    NamesTheFirstThatIsMissing,
    /// A dropped append is stored a second time, with the next one.
    StoresWhatIsDroppedAgain,
    /// After a dropped call nothing goes any more.
    BreaksWhenDropped,
    /// Calls to a closed engine hang.
    HangsWhenClosed,
    /// Calls to a closed engine fail, and do not say why.
    FailsWhenClosed,
    /// Closing hangs.
    HangsAtClose,
    /// What is acknowledged is stored a moment later, unless the engine is closed before.
    StoresInTheBackground,
}

impl Lie {
    /// The lie of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|lie| format!("{lie:?}") == name)
    }

    /// Whether ids and expected ends are declared.
    pub(super) fn has_conditions(self) -> bool {
        matches!(
            self,
            Self::ForgetsIds
                | Self::TellsNoDuplicates
                | Self::ComparesNothing
                | Self::ComparesTooEarly
                | Self::ComparesHonestly
        )
    }

    /// Whether other records are stored than were appended.
    pub(super) fn twists_records(self) -> bool {
        matches!(
            self,
            Self::SwapsRecords
                | Self::DropsAHeader
                | Self::SortsHeaders
                | Self::TakesHeadersForText
                | Self::CleansHeaderNames
                | Self::TurnsNullIntoEmpty
                | Self::TakesValuesForText
                | Self::ChangesTimestamps
                | Self::MakesUpTimestamps
                | Self::MakesBatchesAnew
                | Self::DropsDeliveryTimes
        )
    }
}
