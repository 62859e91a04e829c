//! A broker of its own process, on a store that is full.

use super::super::failed;
use crate::cli::output::Failure;
use crate::client::deliver::{Folder, write_atomically};
use crate::client::http_client;
use crate::clock::{Clock, SystemClock};
use crate::secret::Secret;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Longer than a start over a million leases may take.
const START: Duration = Duration::from_secs(120);

/// Resident memory of a broker of its own process, and how soon the next one is ready.
pub(super) async fn killed(
    folder: &Folder,
    configuration: &str,
) -> Result<(f64, Duration), Failure> {
    let port = || {
        std::net::TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .map(|address| address.port())
            .map_err(failed)
    };
    let (listen, health) = (port()?, port()?);
    let own = folder.path().join("process");
    std::fs::create_dir(&own).map_err(failed)?;
    let text = configuration
        .replace(
            "listen        = \"127.0.0.1:0\"\nhealth",
            &format!("listen        = \"127.0.0.1:{listen}\"\nhealth"),
        )
        .replace(
            "health_listen = \"127.0.0.1:0\"",
            &format!("health_listen = \"127.0.0.1:{health}\""),
        )
        .replace("file:", "file:../")
        .replace(
            "keys          =",
            "audit         = { path = \"audit.jsonl\" }\nkeys          =",
        );
    write_atomically(&own.join("dayfly.toml"), &Secret::new(text))?;
    let clock = SystemClock::new();
    let url = format!("http://127.0.0.1:{health}/readyz");
    let mut first = serve(&own)?;
    until_it_is_ready(&url, &mut first).await?;
    let rss = first.id().and_then(resident).unwrap_or_default();
    first.kill().await.map_err(failed)?;
    let began = clock.since_boot();
    let mut again = serve(&own)?;
    until_it_is_ready(&url, &mut again).await?;
    let ready = clock.since_boot() - began;
    again.kill().await.map_err(failed)?;
    Ok((rss, ready))
}

fn serve(folder: &std::path::Path) -> Result<Child, Failure> {
    Command::new(std::env::current_exe().map_err(failed)?)
        .args(["serve", "--log", "error", "--config"])
        .arg(folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)
}

async fn until_it_is_ready(url: &str, process: &mut Child) -> Result<(), Failure> {
    let http = http_client().map_err(failed)?;
    let clock = SystemClock::new();
    let until = clock.since_boot() + START;
    while clock.since_boot() < until {
        if let Ok(answer) = http.get(url).send().await
            && answer.status().is_success()
        {
            return Ok(());
        }
        if let Some(status) = process.try_wait().map_err(failed)? {
            return Err(Failure::failed(format!("the broker ended with {status}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Failure::failed("the broker does not get ready"))
}

/// In MiB; of Linux alone.
fn resident(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
