//! What a failure says about a commit: applied, not applied, or nobody knows.

use crate::store::StoreError;
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

/// Why a read gave no answer.
pub(super) enum ReadFailure {
    /// The connection failed: another one may serve.
    Connection(StoreError),
    Final(StoreError),
}

impl From<RedisError> for ReadFailure {
    fn from(error: RedisError) -> Self {
        match failed(&error) {
            Failure::Unknown => Self::Connection(unavailable(&error)),
            Failure::NotApplied(error) | Failure::Final(error) => Self::Final(error),
        }
    }
}

impl From<StoreError> for ReadFailure {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

/// Reads once more where the first connection turns out to be dead.
pub(super) async fn twice<T, F: Future<Output = Result<T, ReadFailure>>>(
    read: impl Fn() -> F,
    before_again: impl FnOnce(),
) -> Result<T, StoreError> {
    match read().await {
        Ok(answer) => Ok(answer),
        Err(ReadFailure::Final(error)) => Err(error),
        Err(ReadFailure::Connection(_)) => {
            before_again();
            read().await.map_err(|failure| match failure {
                ReadFailure::Connection(error) | ReadFailure::Final(error) => error,
            })
        }
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
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Failure::Final(StoreError::Unfit(format!(
            "Redis refuses a command to this user: {text}; docs/storage.md lists what it needs"
        ))),
        Some(
            "READONLY" | "LOADING" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN" | "BUSY"
            | "NOREPLICAS" | "MISCONF" | "NOSCRIPT",
        ) => Failure::NotApplied(StoreError::Unavailable(text)),
        // Before version 7 the code of an error inside a script is part of its text.
        Some(_) if text.contains("OOM command not allowed") => Failure::Final(StoreError::Full),
        Some(_) => Failure::Final(StoreError::Corrupt(text)),
    }
}

pub(super) fn unavailable(error: &RedisError) -> StoreError {
    StoreError::Unavailable(format!("Redis: {error}"))
}
