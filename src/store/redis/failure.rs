//! What a failure says about a commit: applied, not applied, or nobody knows.

use crate::store::{Fault, StoreError};
use ::redis::RedisError;

/// Why one sending of a commit gave no outcome.
pub(super) enum Failure {
    /// It was not applied by this sending; another may succeed.
    NotApplied(StoreError),
    /// It may have been applied.
    Unknown,
    /// Sending it again changes nothing.
    Final(StoreError),
}

/// Why a server was asked in vain: what it said, or what we say.
pub(super) enum Queried {
    Redis(RedisError),
    Store(StoreError),
}

impl From<RedisError> for Queried {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<StoreError> for Queried {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Queried {
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Redis(error) => ReadFailure::from(error).into_error(),
            Self::Store(error) => error,
        }
    }
}

/// Why a read gave no answer.
pub(super) enum ReadFailure {
    /// The connection failed: another one may serve.
    Connection(StoreError),
    /// Not here, or not now: the shard has moved or is moving, a primary is still loading.
    NotNow(StoreError),
    Final(StoreError),
}

impl ReadFailure {
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Connection(error) | Self::NotNow(error) | Self::Final(error) => error,
        }
    }
}

impl From<RedisError> for ReadFailure {
    fn from(error: RedisError) -> Self {
        match failed(&error) {
            Failure::Unknown => Self::Connection(unavailable(&error)),
            Failure::NotApplied(error) => Self::NotNow(error),
            Failure::Final(error) => Self::Final(error),
        }
    }
}

impl From<StoreError> for ReadFailure {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

/// After this error the connection is not used again.
pub(super) fn is_suspect(error: &RedisError) -> bool {
    !matches!(error.code(), Some(code) if code != "READONLY")
}

pub(super) fn not_connected(error: StoreError) -> Failure {
    match error {
        StoreError::Unavailable(_) => Failure::NotApplied(error),
        other => Failure::Final(other),
    }
}

/// What an error says about whether the commit was applied.
pub(super) fn failed(error: &RedisError) -> Failure {
    let text = error.to_string();
    match error.code() {
        // The library could not say more than that the connection failed.
        None => Failure::Unknown,
        Some("OOM") => Failure::Final(StoreError::Full),
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Failure::Final(not_allowed(&text)),
        Some(
            "READONLY" | "LOADING" | "MASTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "CLUSTERDOWN"
            | "BUSY" | "NOREPLICAS" | "MISCONF" | "NOSCRIPT" | "UNBLOCKED",
        ) => Failure::NotApplied(StoreError::Unavailable(text)),
        // Two wordings, for the command and for the key.
        Some(_)
            if text.contains("ACL failure in script")
                || text.contains("executing the script can't") =>
        {
            Failure::Final(not_allowed(&text))
        }
        // Before version 7 the code of an error inside a script is part of its text.
        Some(_) if text.contains("OOM command not allowed") => Failure::Final(StoreError::Full),
        Some(_) => Failure::Final(StoreError::Corrupt(text)),
    }
}

pub(super) fn unavailable(error: &RedisError) -> StoreError {
    StoreError::Unavailable(format!("Redis: {error}"))
}

fn not_allowed(text: &str) -> StoreError {
    let message = format!(
        "Redis refuses a command to this user: {text}; deploy/redis/dayfly.conf has the rights it needs"
    );
    Fault::UserRefused.found(message).into()
}
