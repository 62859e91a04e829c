//! The user of `deploy/redis/dayfly.conf`: what Dayfly does is allowed, and nothing else is.

use super::support::shipped_conf;
use super::*;
use ::redis::Value;

const PASSWORD: &str = "a-password";

/// A primary with the shipped file, and a replica of it.
struct Shipped {
    primary: RedisServer,
    _replica: RedisServer,
    _file: tempfile::NamedTempFile,
}

fn shipped() -> Option<Shipped> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), shipped_conf(PASSWORD)).unwrap();
    let include = ["--include", file.path().to_str().unwrap()];
    let primary = RedisServer::start(&include).unwrap()?;
    let port = primary.port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).unwrap()?;
    primary.until_followed_by(1).unwrap();
    Some(Shipped {
        primary,
        _replica: replica,
        _file: file,
    })
}

impl Shipped {
    async fn open(&self) -> Result<Redis, StoreError> {
        let url = self.primary.url_as("dayfly", PASSWORD);
        let mut settings = RedisSettings::new(Secret::new(url));
        settings.min_replicas = 1;
        Redis::connect(settings).await
    }

    /// Everything that a store does.
    async fn use_it(&self) -> Result<(), String> {
        let store = self.open().await.map_err(|error| error.to_string())?;
        let found = store.check().await.map_err(|error| error.to_string())?;
        if let Some(finding) = found.iter().find(|finding| !finding.fault.is_advice()) {
            return Err(finding.to_string());
        }
        let used = conformance::exercise(Arc::new(store)).await;
        used.map_err(|error| error.to_string())
    }
}

/// `+get`, `+set`, ... of the shipped line.
fn rights() -> Vec<String> {
    let conf = include_str!("../../../../deploy/redis/dayfly.conf");
    let line = conf.lines().find(|line| line.starts_with("user ")).unwrap();
    let rights = line.split(' ').filter_map(|word| word.strip_prefix('+'));
    rights.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_user_may_do_what_the_store_does() {
    let Some(shipped) = shipped() else {
        return;
    };
    shipped.use_it().await.unwrap();
    // The log of what was refused to whom.
    assert_eq!(shipped.primary.command("ACL LOG").unwrap(), "*0\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_of_the_shipped_user_is_needed() {
    let Some(shipped) = shipped() else {
        return;
    };
    let rights = rights();
    assert!(rights.len() > 20, "{rights:?}");
    let command = |line: &str| shipped.primary.command(line).unwrap();
    for right in rights {
        command("FLUSHALL");
        command("ACL LOG RESET");
        assert_eq!(command(&format!("ACL SETUSER dayfly -{right}")), "+OK\r\n");
        let used = shipped.use_it().await;
        assert!(used.is_err(), "{right} is not needed");
        let refused = command("ACL LOG");
        let named = right.split('|').next().unwrap();
        assert!(refused.to_lowercase().contains(named), "{right}: {refused}");
        command(&format!("ACL SETUSER dayfly +{right}"));
    }
}

#[tokio::test]
async fn nothing_else_is_allowed_to_the_shipped_user() {
    let Some(shipped) = shipped() else {
        return;
    };
    drop(shipped.open().await.unwrap());
    let url = shipped.primary.url_as("dayfly", PASSWORD);
    let client = ::redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let script = "return redis.call('GET', 'other')";
    let load = ::redis::cmd("SCRIPT").arg("LOAD").arg(script).to_owned();
    let hash: String = load.query_async(&mut connection).await.unwrap();
    shipped.primary.command("SET other secret").unwrap();
    for line in [
        "CONFIG GET requirepass",
        "CONFIG SET maxmemory-policy allkeys-lru",
        "CONFIG REWRITE",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "DBSIZE",
        "FLUSHALL",
        "FLUSHDB",
        "SWAPDB 0 1",
        "SELECT 1",
        "ACL LIST",
        "ACL SETUSER eve on nopass ~* +@all",
        "REPLICAOF NO ONE",
        "DEBUG RELOAD",
        "SHUTDOWN NOSAVE",
        "SAVE",
        "BGREWRITEAOF",
        "MONITOR",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "SUBSCRIBE anything",
        "PUBLISH anything said",
        "MODULE LIST",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "EVAL return{} 0",
        "RENAME {d3}rother {d3}rthere",
        "GET other",
        "SET other x",
        "DEL other",
        "GET {e3}rother",
        "MGET {d3}b other",
        "XREAD STREAMS other 0",
    ] {
        let mut words = line.split(' ');
        let mut call = ::redis::cmd(words.next().unwrap());
        for word in words {
            call.arg(word);
        }
        let answer: Result<Value, _> = call.query_async(&mut connection).await;
        let error = answer.expect_err(line);
        assert_eq!(error.code(), Some("NOPERM"), "{line}: {error}");
    }
    let call = ::redis::cmd("EVALSHA").arg(hash).arg(0).to_owned();
    let answer: Result<Value, _> = call.query_async(&mut connection).await;
    let error = answer.unwrap_err().to_string();
    assert!(
        error.contains("executing the script can't access"),
        "{error}"
    );
    assert_eq!(
        shipped.primary.command("GET other").unwrap(),
        "$6\r\nsecret\r\n"
    );
}

#[tokio::test]
async fn a_user_that_redis_does_not_know_is_told_apart() {
    let server = server!(AOF);
    let known = "ACL SETUSER known on >pw ~* +@all -role";
    assert_eq!(server.command(known).unwrap(), "+OK\r\n");
    for (user, password) in [("dayfly", "pw"), ("known", "wrong"), ("known", "pw")] {
        let url = server.url_as(user, password);
        let error = Redis::connect(RedisSettings::new(Secret::new(url)))
            .await
            .unwrap_err();
        assert_eq!(error.as_finding().fault, Fault::UserRefused, "{error}");
    }
}
