//! Valkey, with all that is shipped for a Redis that fails over: nobody has more rights than those files give.

use super::load::{Load, on};
use crate::support::process::Installation;
use crate::support::redis::{Watched, valkey};
use std::path::Path;

const PASSWORD: &str = "a-password";

/// Under load its primary is frozen, replaced, and wakes up.
async fn fails_over_with_the_shipped_files(program: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("dayfly.conf");
    let Some(watched) = Watched::shipped(program, PASSWORD, &conf).unwrap() else {
        return;
    };
    let installation = Installation::start().await;
    let query = format!("?sentinel_user=dayfly&sentinel_password={PASSWORD}");
    let url = watched
        .url()
        .replace("://", &format!("://dayfly:{PASSWORD}@"))
        + &query;
    let brokers = on(&installation, &url, 1).await;
    let load = Load::start(installation, brokers);
    load.until_minted(20).await;
    super::freeze_and_thaw(&watched, &load).await;
    load.finish().await;
    assert!(watched.heir().is_some());
    for server in &watched.servers {
        assert_eq!(server.command("ACL LOG").unwrap(), "*0\r\n");
    }
    for sentinel in &watched.sentinels {
        let told = sentinel.command(&format!("AUTH test {PASSWORD}\r\nACL LOG"));
        assert_eq!(told.unwrap(), "+OK\r\n*0\r\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_fails_over_under_load_with_the_shipped_files() {
    if let Some(valkey) = valkey() {
        fails_over_with_the_shipped_files(&valkey).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_fails_over_under_load_with_the_shipped_files() {
    fails_over_with_the_shipped_files(Path::new("redis-server")).await;
}
