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

/// By the store itself, not only by whoever asks whether it is there.
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
        command("SCRIPT FLUSH");
        let store = shipped.open().await.unwrap();
        command("ACL LOG RESET");
        assert_eq!(command(&format!("ACL SETUSER dayfly -{right}")), "+OK\r\n");
        let used = match right.as_str() {
            "info" | "multi" | "discard" => store.check().await.map(drop).is_ok(),
            _ => conformance::exercise(Arc::new(store)).await.is_ok(),
        };
        assert!(!used || right == "discard", "{right} is not needed");
        let refused = command("ACL LOG");
        let named = right.split('|').next().unwrap();
        assert!(refused.to_lowercase().contains(named), "{right}: {refused}");
        command(&format!("ACL SETUSER dayfly +{right}"));
    }
}

/// A start and a look beforehand; neither writes anything.
async fn is_named(settings: &RedisSettings, words: &str) {
    let started = Redis::connect(settings.clone()).await.unwrap_err();
    let started = started.as_finding();
    let looked = match Redis::inspect(settings).await {
        Ok(found) => found,
        Err(error) => vec![error.as_finding()],
    };
    let looked = looked.into_iter().find(|one| !one.fault.is_advice());
    for found in [started, looked.expect(words)] {
        assert_eq!(found.fault, Fault::UserRefused, "{words}: {found}");
        let message = found.message.to_lowercase();
        assert!(message.contains(&words.to_lowercase()), "{words}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_lacks_a_right_or_a_key_is_named_with_it_and_nothing_is_written() {
    let Some(shipped) = shipped() else {
        return;
    };
    let url = shipped.primary.url_as("dayfly", PASSWORD);
    let settings = RedisSettings::new(Secret::new(url.clone()));
    let command = |line: &str| shipped.primary.command(line).unwrap();
    for right in rights() {
        assert_eq!(command(&format!("ACL SETUSER dayfly -{right}")), "+OK\r\n");
        let named = right.replace('|', " ");
        let named = if matches!(named.as_str(), "role" | "info" | "multi") {
            format!("'{named}' command")
        } else {
            format!("may not run {named};")
        };
        is_named(&settings, &named).await;
        command(&format!("ACL SETUSER dayfly +{right}"));
    }
    // Several at once, and each of them is said.
    command("ACL SETUSER dayfly -xadd -xtrim -script|load");
    is_named(&settings, "may not run SCRIPT LOAD, XADD, XTRIM;").await;
    command("ACL SETUSER dayfly +xadd +xtrim +script|load");
    for (keys, missing) in [
        ("~{d1}* ~{d2}*", "the keys {d0}b, "),
        ("~{d[0-9]*}[a-q]*", "the keys {d0}r, {d0}t, {d0}u, {d1}r,"),
        ("%R~{d[0-9]*}*", "the keys {d0}b, "),
    ] {
        assert_eq!(
            command(&format!("ACL SETUSER dayfly resetkeys {keys}")),
            "+OK\r\n"
        );
        is_named(&settings, missing).await;
    }
    command("ACL SETUSER dayfly resetkeys ~{d[0-9]*}*");
    let second = RedisSettings::new(Secret::new(format!("{url}/2")));
    is_named(&second, "'select' command").await;
    assert_eq!(command("DBSIZE"), ":0\r\n");
    drop(Redis::connect(settings).await.unwrap());
}

/// `+cluster|slots` is what a cluster needs beside the shipped line, on each node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_user_serves_a_cluster_and_a_node_that_lacks_a_right_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), shipped_conf(PASSWORD)).unwrap();
    let Some(cluster) = support::Cluster::start_shipped(file.path()).await else {
        return;
    };
    let url = format!("redis+cluster://dayfly:{PASSWORD}@{}", cluster.seeds());
    let settings = RedisSettings::new(Secret::new(url));
    is_named(&settings, "'cluster|slots' command").await;
    let all = |line: &str| {
        for server in &cluster.servers {
            assert_eq!(server.command(line).unwrap(), "+OK\r\n", "{line}");
        }
    };
    all("ACL SETUSER dayfly +cluster|slots");
    all("ACL LOG RESET");
    let store = Arc::new(Redis::connect(settings.clone()).await.unwrap());
    assert_eq!(unfit(&store).await, [""; 0]);
    conformance::exercise(store.clone()).await.unwrap();
    for server in &cluster.servers {
        assert_eq!(server.command("ACL LOG").unwrap(), "*0\r\n");
    }
    for (number, server) in cluster.servers.iter().enumerate() {
        let place = format!("127.0.0.1:{}: ", server.port());
        server.command("ACL SETUSER dayfly -xtrim").unwrap();
        let named = format!("{place}this user of Redis may not run XTRIM;");
        is_named(&settings, &named).await;
        assert_eq!(unfit(&store).await.len(), 1, "{number}");
        server.command("ACL SETUSER dayfly +xtrim").unwrap();
        server
            .command("CONFIG SET maxmemory-policy allkeys-lru")
            .unwrap();
        let found = Redis::inspect(&settings).await.unwrap();
        let unfit = found.iter().filter(|one| !one.fault.is_advice());
        let unfit: Vec<_> = unfit
            .map(|one| (one.fault, one.message.starts_with(&place)))
            .collect();
        assert_eq!(unfit, [(Fault::MayEvict, true)], "{number}");
        server
            .command("CONFIG SET maxmemory-policy noeviction")
            .unwrap();
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
