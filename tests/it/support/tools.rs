//! Programs that a test may need and a machine may lack. `tests/run` installs them and names them in
//! `DAYFLY_TEST_REQUIRE`, so that a missing one is a failure there and a skip elsewhere.

use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;

/// Python with the packages of `tests/clients/requirements.txt`.
pub fn python() -> Option<PathBuf> {
    tool("python/bin/python", "clients")
}

/// The folder that holds `node_modules`.
pub fn node_folder() -> Option<PathBuf> {
    tool("node_modules", "clients").and_then(|path| path.parent().map(PathBuf::from))
}

#[expect(
    clippy::disallowed_methods,
    reason = "`tests/run` speaks through the environment"
)]
fn tool(path: &str, name: &str) -> Option<PathBuf> {
    let found = std::env::var("DAYFLY_TEST_TOOLS")
        .ok()
        .map(|folder| PathBuf::from(folder).join(path))
        .filter(|path| path.exists());
    let required = std::env::var("DAYFLY_TEST_REQUIRE").unwrap_or_default();
    assert!(
        found.is_some() || !required.split(',').any(|word| word == name),
        "{path} is required and not below DAYFLY_TEST_TOOLS"
    );
    if found.is_none() {
        eprintln!("skipped: no {path} below DAYFLY_TEST_TOOLS");
    }
    found
}

/// Whether a program of the system, found by this file of it, is there.
#[expect(
    clippy::disallowed_methods,
    reason = "`tests/run` speaks through the environment"
)]
pub fn program(name: &str, file: &str) -> bool {
    let found = Path::new(file).exists();
    let required = std::env::var("DAYFLY_TEST_REQUIRE").unwrap_or_default();
    assert!(
        found || !required.split(',').any(|word| word == "clients"),
        "{name} is required and not installed: no {file}"
    );
    if !found {
        eprintln!("skipped: no {file}");
    }
    found
}

/// Where the scripts of `tests/clients` lie.
pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// The JSON that a script printed.
pub async fn json_of(mut command: Command) -> serde_json::Value {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().await.unwrap();
    let told = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{status}: {told}");
    serde_json::from_slice(&stdout).unwrap_or_else(|error| {
        panic!("{error}: {}{told}", String::from_utf8_lossy(&stdout));
    })
}

/// Runs a node script where its imports resolve: beside `node_modules`.
pub async fn node(folder: &Path, name: &str, arguments: &[&str]) -> serde_json::Value {
    node_with(folder, name, arguments, &[]).await
}

/// The same, with files that it is told of by its environment.
pub async fn node_with(
    folder: &Path,
    name: &str,
    arguments: &[&str],
    environment: &[(&str, &Path)],
) -> serde_json::Value {
    let copy = folder.join(format!("{}-{name}", dayfly::ids::draw_uuid()));
    std::fs::copy(script(name), &copy).unwrap();
    let mut command = Command::new("node");
    command
        .arg(&copy)
        .args(arguments)
        .envs(environment.iter().copied());
    let answer = json_of(command).await;
    std::fs::remove_file(&copy).unwrap();
    answer
}
