//! The store that a configuration names.

use super::output::Failure;
use crate::config::{StoreSettings, secret_reference};
use crate::secret::Secret;
use crate::store::embedded::Embedded;
use crate::store::redis::{Redis, RedisSettings, TlsIdentity};
use crate::store::{Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;

pub async fn open_store(settings: &StoreSettings) -> Result<Arc<dyn Store>, Failure> {
    let failed = |error: StoreError| Failure {
        code: 6,
        ..Failure::failed(error.to_string())
    };
    match settings {
        StoreSettings::Embedded { path } => Ok(Arc::new(Embedded::open(path).map_err(failed)?)),
        redis @ StoreSettings::Redis { .. } => {
            let settings = redis_settings(redis)?;
            Ok(Arc::new(Redis::connect(settings).await.map_err(failed)?))
        }
    }
}

/// With what the references and the paths lead to.
pub fn redis_settings(settings: &StoreSettings) -> Result<RedisSettings, Failure> {
    let StoreSettings::Redis {
        url,
        min_replicas,
        ca,
        identity,
    } = settings
    else {
        return Err(Failure::failed("the store is embedded"));
    };
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
    };
    let url = secret_reference(url).map_err(|error| Failure::failed(error.to_string()))?;
    let identity = match identity {
        Some((certificate, key)) => Some(TlsIdentity {
            certificate: read(certificate)?,
            key: Secret::new(read(key)?),
        }),
        None => None,
    };
    Ok(RedisSettings {
        min_replicas: *min_replicas,
        ca: ca.as_ref().map(read).transpose()?,
        identity,
        ..RedisSettings::new(url)
    })
}
