//! The moments at which a process may die with something half done, by name.
//!
//! In: [`at`], between two writes of whatever a crash must not lose. Out: nothing, unless whoever
//! *links* the library has set a [`watch`]: the tests' own broker does, and dies there. The program
//! sets none, and no flag, variable or file makes it: see `docs/decisions/0026`.

use std::sync::OnceLock;

macro_rules! steps {
    ($($name:ident $text:literal)+) => {
        /// A moment of an exchange, a revocation, a sweep or a sealing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Step { $($name),+ }

        impl Step {
            /// All of them, in the order of their walks.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

steps! {
    // Exchange.
    Decided "exchange-decided"
    ParentMarking "exchange-parent-marking"
    ParentMarked "exchange-parent-marked"
    Reserving "exchange-reserving"
    Reserved "exchange-reserved"
    Minting "exchange-minting"
    Minted "exchange-minted"
    MintFailed "exchange-mint-failed"
    Abandoned "exchange-abandoned"
    Activating "exchange-activating"
    Activated "exchange-activated"
    Answering "exchange-answering"
    // Revocation and release.
    Raising "revoke-raising"
    Raised "revoke-raised"
    InForce "revoke-in-force"
    ReceiptWriting "revoke-receipt-writing"
    ReceiptWritten "revoke-receipt-written"
    Marking "revoke-marking"
    Marked "revoke-marked"
    // The sweep: what fences ended.
    ShardClaiming "sweep-shard-claiming"
    ShardClaimed "sweep-shard-claimed"
    BatchMarking "sweep-batch-marking"
    BatchMarked "sweep-batch-marked"
    ShardMatched "sweep-shard-matched"
    ShardDone "sweep-shard-done"
    // The sweep: what is due.
    EndClaiming "sweep-end-claiming"
    EndClaimed "sweep-end-claimed"
    Ending "sweep-ending"
    Ended "sweep-ended"
    EndRecording "sweep-end-recording"
    EndRecorded "sweep-end-recorded"
    GivingUp "sweep-giving-up"
    GivenUp "sweep-given-up"
    Expiring "sweep-expiring"
    Expired "sweep-expired"
    Lapsing "sweep-lapsing"
    Lapsed "sweep-lapsed"
    Forgetting "sweep-forgetting"
    Forgotten "sweep-forgotten"
    // PostgreSQL.
    RoleMaking "postgres-role-making"
    RoleMade "postgres-role-made"
    LoginTaken "postgres-login-taken"
    PrivilegesTaken "postgres-privileges-taken"
    SessionsEnded "postgres-sessions-ended"
    RoleDropped "postgres-role-dropped"
    // The audit.
    SealClaiming "seal-claiming"
    SealClaimed "seal-claimed"
    Exporting "seal-exporting"
    Exported "seal-exported"
    Sealed "seal-sealed"
    Trimming "seal-trimming"
    Trimmed "seal-trimmed"
    TurningOver "seal-turning-over"
    TurnedOver "seal-turned-over"
}

static WATCH: OnceLock<fn(Step)> = OnceLock::new();

/// Here the process may die.
pub fn at(step: Step) {
    if let Some(watch) = WATCH.get() {
        watch(step);
    }
}

/// For a process that is made to die. `false`: somebody watches already.
pub fn watch(by: fn(Step)) -> bool {
    WATCH.set(by).is_ok()
}
