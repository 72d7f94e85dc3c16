//! What goes wrong: in the world, and on purpose in the wiring.

macro_rules! closed_list {
    ($(#[$doc:meta])* $name:ident { $($(#[$entry:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$entry])* $variant,)* }

        impl $name {
            /// Every one there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

closed_list! {
    /// An accident or a lie that a run may contain.
    Fault {
        /// The coordinator dies: its memory is lost, its ledger stays.
        CoordinatorCrash,
        /// The store refuses to write.
        StoreFails,
        /// The store takes long to write.
        StoreStalls,
        /// A provider's process dies and starts again with a new epoch.
        ProviderCrash,
        /// A provider's process stands still for a while.
        ProviderHangs,
        /// A provider takes no new work, and leaves.
        ProviderDrains,
        /// A provider begins its next epoch early.
        EpochRotates,
        /// A provider lets its epoch run out.
        EpochEnds,
        /// A provider forgets the epochs before its current one.
        EpochForgotten,
        /// A provider does not answer a challenge in time.
        ChallengeIgnored,
        /// A provider's connection breaks, and both ends see it.
        LinkCut,
        /// A provider's connection goes dead; the coordinator does not see it.
        LinkHalfOpen,
        /// Nothing passes on a provider's connection for a while; then everything does.
        Partition,
        /// A provider works very slowly.
        Slow,
        /// A provider says nothing to an offer.
        SilentToOffer,
        /// A provider accepts and then says nothing.
        SilentAfterAcceptance,
        /// A provider stops in the middle of an answer.
        SilentMidway,
        /// A provider ends its answer and sends no receipt.
        NoReceipt,
        /// A provider refuses as it may.
        Refusal,
        /// A provider refuses with a reason that is not its to give.
        ForeignRefusal,
        /// A provider takes an acceptance back.
        RefusalAfterAcceptance,
        /// A provider refuses in the middle of an answer.
        RefusalMidway,
        /// A provider's count of tokens falls.
        CountFalls,
        /// A provider counts beyond the ceiling.
        CountBeyondCeiling,
        /// A provider leaves out a frame.
        SequenceGap,
        /// A provider sends frames that hold no token, without end.
        EmptyFrames,
        /// A provider sends content before it accepts.
        ContentBeforeAcceptance,
        /// A provider sends content after the end.
        ContentAfterEnd,
        /// A provider accepts twice.
        SecondAcceptance,
        /// A provider accepts another attempt than it was offered.
        WrongAttempt,
        /// A receipt counts more than was made.
        InflatedReceipt,
        /// A receipt's signature does not verify.
        ForgedReceipt,
        /// A receipt is about another request.
        ForeignReceipt,
        /// A receipt comes before the answer's end.
        EarlyReceipt,
        /// A receipt comes instead of an acceptance.
        ReceiptBeforeAcceptance,
        /// A receipt is presented while its request is still being relayed.
        ReceiptRunsAhead,
        /// A provider presents a receipt that another one signed.
        StolenReceipt,
        /// A receipt that was settled is presented again.
        OldReceipt,
        /// A provider signs a receipt for what it was offered and never did.
        InventedReceipt,
        /// A provider sends a frame without a token, stops, and signs a receipt for a whole answer.
        ReceiptForNothing,
        /// A provider never acknowledges a cancel.
        NoCancelAck,
        /// A provider acknowledges a cancel that nobody sent.
        UnaskedCancelAck,
        /// A provider claims more rows than it has.
        BoastedRows,
        /// A provider cannot load a model that it was asked for.
        LoadFails,
        /// A provider begins to load a model and says nothing more of it.
        LoadNeverEnds,
        /// A provider drops a model from its memory.
        ModelDropped,
        /// A consumer hangs up.
        ConsumerHangsUp,
        /// A consumer stops reading for a while.
        ConsumerStopsReading,
        /// The connection of a response breaks.
        ResponseCut,
        /// The connection of a response goes dead; nobody sees it.
        ResponseHalfOpen,
        /// The same sealing is submitted twice.
        SubmittedTwice,
        /// An operation is repeated with a fresh sealing.
        OperationRepeated,
        /// A client takes too long to seal again.
        SlowReseal,
        /// A client says that its request replaces one that does not wait for it.
        FalseSupersede,
        /// An account has too little money.
        PoorAccount,
        /// A client seals to an epoch that it remembers for too long.
        StaleCandidates,
    }
}

closed_list! {
    /// A mistake that somebody could make in the wiring between the machines. A run with one must find it.
    Planted {
        /// A row is not given back after a refusal.
        RowKeptAfterRefusal,
        /// A row is given back twice.
        RowReleasedTwice,
        /// A provider's failures are not counted.
        FaultsNotCounted,
        /// A provider counts as heard though nothing came from it.
        SilenceNotSeen,
        /// The end of an epoch is never told to the router.
        EpochEndIgnored,
        /// Draining is not passed on.
        DrainingIgnored,
        /// Challenges count as answered when they are sent.
        ChallengesWaved,
        /// A request may be offered to a provider that was tried.
        TriedAgain,
        /// A request that ends does not leave the queue.
        QueueNotLeft,
        /// Chances for room are not passed to the requests that wait.
        WakesLost,
        /// Models that are wanted are not asked for.
        LoadsLost,
        /// Nobody tells the router that time passes.
        TimeNotTold,
        /// The wait in the queue has no end.
        QueueWithoutEnd,
        /// The loss of a connection is not told to its requests.
        LossNotTold,
        /// A consumer that leaves is not noticed.
        LeavingNotNoticed,
        /// A provider is not told to stop.
        CancelNotSent,
        /// A provider that has not accepted is not told to stop.
        OfferNotCancelled,
        /// Frames are passed on whatever the machine says.
        RelayedUnasked,
        /// A frame is lost on its way to the client.
        FrameLost,
        /// Frames are handed to a request by its name, whichever offer they belong to.
        OldOfferHeard,
        /// A client is not told that its request is alive.
        KeepAlivesForgotten,
        /// The answer of the ledger is not told to the machine.
        SettlementNotTold,
        /// A delivered answer's hold is given back.
        VoidedInsteadOfSettled,
        /// A hold is not given back.
        VoidForgotten,
        /// The receipt's count is charged, whatever was relayed.
        ReceiptCharged,
        /// The price of the whole hold is charged.
        HoldCharged,
        /// Whoever was tried first is paid.
        FirstTriedPaid,
        /// The bill names the hold.
        BillNamesHold,
        /// Every sealing is an operation of its own to the ledger.
        OperationPerSealing,
        /// Any hold may be superseded.
        AnyHoldSuperseded,
        /// A receipt's signature is not checked.
        SignatureNotChecked,
        /// A presented receipt settles a request that is still being relayed.
        LiveRequestSettledByReceipt,
        /// A presented receipt settles its request, whoever signed it.
        AnyReceiptBelieved,
        /// Whose answer is relayed is not written down.
        AcceptanceNotNoted,
        /// Whose answer is relayed is written down before it has a token.
        AcceptanceNotedAtOnce,
        /// Holds of an earlier run are given back for good.
        OrphansVoidedForGood,
        /// A receipt is acknowledged before its settlement is durable.
        AcknowledgedBeforeDurable,
        /// Holds that wait to be sealed again are never given up.
        ResealsNeverOverdue,
        /// A hold expires while its request runs.
        HoldsExpireUnderRequests,
        /// A refusal that is not the provider's to give is passed on.
        ForeignRefusalPassed,
        /// Each reseal counts as the first.
        ResealsNotCounted,
    }
}
