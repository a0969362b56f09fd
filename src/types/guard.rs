//! The rules of the protocol that each prevent something, as switches for the tests that prove them needed.
//!
//! [`holds`] stands as one condition where a rule is kept. In a normal build it is `true` and leaves no trace. With the
//! feature `guard-switches`, which only the crate's own tests turn on, a thread can switch rules off for itself
//! (`without`): the simulation must then find what their absence does. `docs/guards.md` says what it found.

macro_rules! guards {
    ($($(#[$doc:meta])+ $name:ident = $text:literal,)+) => {
        /// A rule whose absence breaks a promise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Guard {
            $($(#[$doc])+ $name,)+
        }

        impl Guard {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As documents and tests name it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

guards! {
    /// A request executes only while its grant is current (`rpc::server`).
    ///
    /// Without it: an owner whose lease ran out executes beside its successor.
    GateBefore = "gate-before",
    /// A result is handed out only while its grant is current; else the outcome is *unknown* (`rpc::server`).
    ///
    /// Without it: a caller is told of success by a node that was not the owner any more.
    GateAfter = "gate-after",
    /// A node may act until 3/4 of a lease after it sent its last acknowledged heartbeat (`ring::lease`).
    ///
    /// Without it: a paused or cut-off node goes on while others take over.
    SelfFence = "self-fence",
    /// Claims are sent only with half a lease left to act in (`ring::machine`).
    ///
    /// Without it: a suspended node claims; a claim is acknowledged to a node that may not act.
    HalfLeaseToClaim = "half-lease-to-claim",
    /// A claim is written at the revision at which the one before was seen (the store's twin).
    ///
    /// Without it: a later owner's claim is overwritten by one that was decided on an older view.
    ClaimRevision = "claim-revision",
    /// A lease is written at the revision last seen, by its holder and by whoever evicts it (the store's twin).
    ///
    /// Without it: a heartbeat undoes an eviction; an eviction hits a node that has just renewed.
    LeaseRevision = "lease-revision",
    /// A plan is written at the revision of the one before (the store's twin).
    ///
    /// Without it: a coordinator of before overwrites what its successor planned.
    PlanRevision = "plan-revision",
    /// A request whose sender knows a later epoch is held back until it is known here as well (`rpc::server`).
    ///
    /// Without it: it is executed or passed on by a node that is behind, and passed to and fro.
    EpochOfRequest = "epoch-of-request",
    /// A request is passed on eight times at most (`rpc::server`).
    ///
    /// Without it: nodes that disagree pass it to each other for ever.
    HopLimit = "hop-limit",
    /// Nothing is decided before the first state of the ring was seen, which is applied as one unit (`ring::machine`).
    ///
    /// Without it: a node acts on a plan whose claims it has not seen, and a claim that is not in the view counts as none.
    SnapshotAsUnit = "snapshot-as-unit",
    /// A lease has run out for an observer a whole lease after it *received* its last change (`ring::lease`).
    ///
    /// Without it: a node is evicted while it may still act.
    FullLeaseSilence = "full-lease-silence",
    /// An observer whose own heartbeats had a gap over 1/3 lease judges anew (`ring::machine::life`).
    ///
    /// Without it: who could not see renewals evicts those who made them.
    ObserverGap = "observer-gap",
    /// An observer whose connection was away judges anew (`ring::machine::life`).
    ///
    /// Without it: renewals missed while cut off count as silence.
    ObserverReconnect = "observer-reconnect",
    /// An observer whose eviction was refused judges anew (`ring::machine::coordinate`).
    ///
    /// Without it: it evicts again at once, with a view that was just proven old.
    ObserverConflict = "observer-conflict",
    /// An observer judges only within 1/6 lease of an own acknowledgement (`ring::machine::coordinate`).
    ///
    /// Without it: nodes are evicted because the store was away.
    JudgeWhileHeard = "judge-while-heard",
    /// A claim that timed out may still land: it is sent again until it is settled (`ring::machine::partition`).
    ///
    /// Without it: the partition is let go of, and then the claim lands: what was handed over is gone.
    UnsettledClaim = "unsettled-claim",
    /// Who abandons a switch lets the watch say who won, for a store under a change of leader refuses without reason
    /// (`ring::machine::partition`).
    ///
    /// Without it: a switch that nobody made counts as made, and the state is dropped.
    ConflictOfAbandoned = "conflict-of-abandoned",
    /// The partition's subject is subscribed to before its claim is sent (`node::executor`).
    ///
    /// Without it: a claim stands, and nobody listens where plain clients send to.
    SubscribeFirst = "subscribe-first",
    /// What an owner held back during a switch goes to the new owner (`rpc::server`).
    ///
    /// Without it: requests that came in during a planned move fail.
    ForwardAfterSwitch = "forward-after-switch",
    /// A subscription is read until more has come than can be in flight (`node::entrance`).
    ///
    /// Without it: requests in flight to a former owner, or to a node that leaves, are lost.
    LetGoWithoutLoss = "let-go-without-loss",
    /// A leaving node waits until its peers know the owners it knows (`node::executor`).
    ///
    /// Without it: requests are passed on to a node that has left.
    Farewell = "farewell",
    /// No heartbeat while the data connection is down for half a lease (`ring::machine::life`).
    ///
    /// Without it: a node that nobody can reach keeps what it owns.
    BeatsNeedData = "beats-need-data",
    /// A held claim is taken over only once the plan lists its owner among the gone (`ring::machine::partition`).
    ///
    /// Without it: a node takes over what it merely believes to be orphaned, from one that lives.
    TakeoverByPlan = "takeover-by-plan",
    /// Those gone are incarnations, not names (`ring::view`).
    ///
    /// Without it: what a restarted node has claimed is taken from it for what its former life was.
    GoneByIncarnation = "gone-by-incarnation",
    /// A lease that was not seen proves nothing about its holder (`ring::view`).
    ///
    /// Without it: a node whose lease is on its way to the coordinator counts as gone.
    AbsentLease = "absent-lease",
    /// A coordinator plans only once it has seen all leases (`ring::machine::coordinate`).
    ///
    /// Without it: members whose leases it has not seen yet lose everything to those whose it has.
    AllLeasesSeen = "all-leases-seen",
    /// An owner that has handed out a partition's state serves on only under a new epoch, won by a claim
    /// (`ring::machine::moves`).
    ///
    /// Without it: it serves on while the target claims: two owners, and writes that the target has not.
    AbandonByClaim = "abandon-by-claim",
    /// The grant of an epoch that was offered holds no longer (`ring::machine::moves`).
    ///
    /// Without it: a service that acts by itself acts on while the target does.
    RevokeAtOffer = "revoke-at-offer",
    /// What runs for a partition ends before `on_release` and the transfer (`ring::machine::moves`).
    ///
    /// Without it: a request writes after the state was copied: acknowledged, and lost.
    FinishRunning = "finish-running",
    /// A lease of one's name with another incarnation is somebody else's (`ring::machine::life`).
    ///
    /// Without it: two processes of one name renew one lease.
    OwnIncarnation = "own-incarnation",
    /// A name whose lease is live is taken only after a whole lease without a renewal (`ring::machine::life`).
    ///
    /// Without it: a second process of a name throws the first one out.
    NameObserved = "name-observed",
    /// A second process of a name that is seen renewed gives up (`ring::machine::life`).
    ///
    /// Without it: it waits for ever, and says nothing.
    LiveNameRefused = "live-name-refused",
    /// Each incarnation of a name has a higher start number (`ring::machine::life`).
    ///
    /// Without it: former and present life of a name cannot be told apart by age.
    StartGrows = "start-grows",
    /// After the store went back the ring goes on under a new generation (`node::meta`).
    ///
    /// Without it: epochs come twice, and fencing tokens with them.
    NextGeneration = "next-generation",
    /// After that a whole lease passes before anybody takes a lease (`ring::machine::life`).
    ///
    /// Without it: somebody claims what a node that has not heard of it still serves.
    HoldOff = "hold-off",
    /// Calls of the service for one partition run one after the other, in the order they were asked for
    /// (`node::hooks`).
    ///
    /// Without it: a discard overtakes the restore after it.
    HookOrder = "hook-order",
    /// Who is not the owner any more drops what it held (`node::executor`).
    ///
    /// Without it: old state comes back when the partition does.
    DiscardAfterLoss = "discard-after-loss",
    /// So many requests are held back for a partition, and no more (`rpc::server`).
    ///
    /// Without it: memory grows with the wait.
    ParkedBound = "parked-bound",
    /// Only what surely did not execute is tried again, or called so (`rpc::router`).
    ///
    /// Without it: a request executes twice.
    RetryOnlyUnexecuted = "retry-only-unexecuted",
    /// What a transfer took is subtracted from times to live (`node::hooks`).
    ///
    /// Without it: entries live longer, each time they are handed over.
    TransferAge = "transfer-age",
    /// Hooks of an owner are called only while the node may act (`ring::machine`).
    ///
    /// Without it: a node that was replaced without knowing starts its service.
    NoHookWhileSuspended = "no-hook-while-suspended",
    /// The gate is shut before the lease is given up (`ring::machine::leaving`).
    ///
    /// Without it: others take over from a node that still executes.
    GateShutBeforeLeft = "gate-shut-before-left",
    /// A move that takes too long is abandoned (`ring::machine::moves`).
    ///
    /// Without it: a lost message leaves a partition parked for ever.
    MoveDeadline = "move-deadline",
    /// A hook that outlasts its limit costs the node its lease (`ring::machine::hooks`).
    ///
    /// Without it: its partition is parked for as long as it hangs.
    HookLimit = "hook-limit",
    /// A follower goes on only from where it stands (`replica::follower`).
    ///
    /// Without it: a copy misses the writes in between, and acknowledges them.
    ReplicaPrev = "replica-prev",
    /// Who has promised a new owner its epoch refuses those before it from that moment (`replica::follower`).
    ///
    /// Without it: a survivor goes on for the former owner after it has said where it stands.
    ReplicaPromise = "replica-promise",
    /// A follower refuses what an owner of an earlier epoch sends (`replica::follower`).
    ///
    /// Without it: a copy that a former owner began clears one of the present owner's set.
    ReplicaEpoch = "replica-epoch",
    /// What an owner sent comes in the order of its numbers, or is refused as late (`replica::follower`).
    ///
    /// Without it: the beginning of a copy given up long ago clears a member.
    ReplicaLate = "replica-late",
    /// A copy made while writes went on is one only once it has all that was written meanwhile (`replica::follower`).
    ///
    /// Without it: after a takeover it holds writes that no owner has.
    ReplicaWhole = "replica-whole",
    /// Until a change of the set is settled, both sets acknowledge each write (`replica::peer`).
    ///
    /// Without it: a member that the record names already lacks what is committed.
    BothSets = "both-sets",
    /// A learner counts from the moment it is reported as caught up (`replica::peer`).
    ///
    /// Without it: writes are committed without it before its addition is written down.
    CaughtUpCounts = "caught-up-counts",
    /// Where a copy begins, what was there is cleared (`replica::follower`).
    ///
    /// Without it: what was deleted long ago is back.
    ClearBeforeCopy = "clear-before-copy",
    /// A write that is older than what its entry has is passed over (the service).
    ///
    /// Without it: a write that a copy's chunk has already is applied twice.
    NewestWins = "newest-wins",
    /// A partition whose owner is gone is taken over by a member of its recorded in-sync set (`ring::machine::recovery`).
    ///
    /// Without it: it starts without what was acknowledged.
    TakeoverByMember = "takeover-by-member",
    /// Members of a set are incarnations, not names (`ring::machine::recovery`).
    ///
    /// Without it: a node that was started anew, and has nothing, recovers what its former life held.
    MemberByIncarnation = "member-by-incarnation",
    /// From before a change of the set is sent until it is settled, both sets acknowledge (`ring::machine::copies`).
    ///
    /// Without it: a member is recorded that lacks what was acknowledged meanwhile.
    PendingBeforeChange = "pending-before-change",
    /// A change of the set is sent once those it adds have all that was written before both sets had to have each write
    /// (`ring::machine::copies`).
    ///
    /// Without it: a member is recorded that lacks the last of what was acknowledged before.
    JoinedBeforeChange = "joined-before-change",
    /// A change of the set that timed out may still land: it is sent again until it is settled
    /// (`ring::machine::copies`).
    ///
    /// Without it: a set is recorded that nobody replicates to any more.
    UnsettledSet = "unsettled-set",
    /// A learner is added to the set once it has everything (`ring::machine::copies`).
    ///
    /// Without it: every write waits for a whole copy, which is given up for taking too long, again and again.
    CaughtUpFirst = "caught-up-first",
    /// What counts of a follower is what was told after it was named, as learner or added member
    /// (`ring::machine::copies`).
    ///
    /// Without it: what it had counts, though it was taken out since and may have dropped it.
    CaughtUpSince = "caught-up-since",
    /// While suspended, what the copies confirm is asked for after the request was executed (`rpc::server`).
    ///
    /// Without it: a successor begins between the question and the execution, which reads what is old.
    ConfirmAfterExecution = "confirm-after-execution",
    /// While suspended, every member of the recorded set and of the one it is being changed to confirms the epoch
    /// (`replica::confirm`).
    ///
    /// Without it: the one that took over is not asked.
    ConfirmByAll = "confirm-by-all",
    /// A suspended owner goes on with its copies for ten leases at most (`service::grant`).
    ///
    /// Without it: a set that is cut off serves beside the empty partition that was started in its place.
    SuspendLimit = "suspend-limit",
    /// Where nobody is left of a set that may serve among itself, its partition starts empty only eleven leases after its
    /// owner was known to be gone (`ring::machine::recovery`).
    ///
    /// Without it: the same, at once.
    WaitBeforeEmptyStart = "wait-before-empty-start",
    /// After the store went back nothing is given out before all members of the last plan are there, or twelve leases have
    /// passed (`ring::machine::former`).
    ///
    /// Without it: a set that is cut off, and has not heard of it, serves beside the new owners.
    FormerSetsEnd = "former-sets-end",
}

/// Whether the rule is kept: always, in a build that people run.
#[cfg(not(feature = "guard-switches"))]
#[inline(always)]
pub const fn holds(_: Guard) -> bool {
    true
}

#[cfg(feature = "guard-switches")]
mod switches {
    use std::cell::Cell;
    use std::marker::PhantomData;

    use super::Guard;

    thread_local! {
        static OFF: Cell<u128> = const { Cell::new(0) };
    }

    /// Whether the rule is kept on this thread.
    pub fn holds(guard: Guard) -> bool {
        OFF.get() & bit(guard) == 0
    }

    fn bit(guard: Guard) -> u128 {
        1 << guard as u32
    }

    /// Rules switched off on this thread, until it is dropped.
    #[must_use = "the rules hold again once it is dropped"]
    #[derive(Debug)]
    pub struct Without {
        before: u128,
        /// It belongs to its thread.
        _thread: PhantomData<*const ()>,
    }

    /// Switches rules off on this thread.
    pub fn without(guards: &[Guard]) -> Without {
        let before = OFF.get();
        OFF.set(guards.iter().fold(before, |off, guard| off | bit(*guard)));
        Without { before, _thread: PhantomData }
    }

    impl Drop for Without {
        fn drop(&mut self) {
            OFF.set(self.before);
        }
    }
}

#[cfg(feature = "guard-switches")]
pub use switches::{Without, holds, without};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_off_on_its_thread_only_and_until_it_is_dropped() {
        let (one, other) = (Guard::ALL[0], Guard::ALL[Guard::ALL.len() - 1]);
        let off = without(&[one]);
        {
            let _both = without(&[other]);
            assert!(!holds(one) && !holds(other));
        }
        assert!(!holds(one) && holds(other));
        assert!(std::thread::spawn(move || holds(one)).join().is_ok_and(|held| held));
        drop(off);
        assert!(Guard::ALL.iter().all(|guard| holds(*guard)));
    }

    #[test]
    fn every_guard_has_a_switch_and_a_name_of_its_own() {
        assert!(Guard::ALL.len() <= 128, "the switches are the bits of one number");
        let names: std::collections::BTreeSet<_> = Guard::ALL.iter().map(|guard| guard.name()).collect();
        assert_eq!(names.len(), Guard::ALL.len());
    }
}
