//! What `deploy/` says to the program, the program understands; what it names is there.

use crate::support::redis::RedisServer;
use clap::{CommandFactory as _, Parser as _};
use dayfly::cli::Cli;
use dayfly::secret::Secret;
use dayfly::store::Store as _;
use dayfly::store::redis::{Redis, RedisSettings};
use std::path::Path;

fn deploy(file: &str) -> String {
    std::fs::read_to_string(root().join("deploy").join(file)).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn understood(words: &[&str]) {
    let program = Path::new(words[0]).file_name().unwrap();
    assert_eq!(program, "dayfly", "{words:?}");
    if let Err(error) = Cli::try_parse_from(words) {
        panic!("{words:?}: {error}");
    }
}

/// The flags that one command takes.
fn flags(command: &str) -> Vec<String> {
    let program = Cli::command();
    let command = program.find_subcommand(command).unwrap();
    let global = program.get_arguments();
    let all = command.get_arguments().chain(global);
    all.filter_map(|one| one.get_long().map(|long| format!("--{long}")))
        .collect()
}

#[test]
fn the_systemd_unit_starts_a_command_that_exists() {
    let unit = deploy("systemd/dayfly.service");
    let value = |key: &str| -> Vec<&str> {
        unit.lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .collect()
    };
    let start = value("ExecStart");
    assert_eq!(start.len(), 1);
    understood(&start[0].split(' ').collect::<Vec<_>>());
    assert_eq!(value("ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    // The broker drains for 20 s unless told otherwise.
    let patience: u32 = value("TimeoutStopSec")[0].parse().unwrap();
    assert!(patience > 20);
    // The document names the credential that the unit hands over.
    let credential = value("LoadCredential")[0].split_once(':').unwrap().0;
    let page = std::fs::read_to_string(root().join("docs/deploying.md")).unwrap();
    assert!(page.contains(&format!("/run/credentials/dayfly.service/{credential}")));
    for line in unit.lines() {
        let plain = line.is_empty() || line.starts_with(['#', '[']) || line.contains('=');
        assert!(plain, "{line}");
    }
}

#[test]
fn the_image_starts_a_command_that_exists() {
    let image = deploy("Dockerfile");
    let array = |key: &str| -> Vec<String> {
        let line = image.lines().find_map(|line| line.strip_prefix(key));
        serde_json::from_str(line.unwrap()).unwrap()
    };
    let words = [array("ENTRYPOINT "), array("CMD ")].concat();
    understood(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(image.contains("nonroot"));
    // A volume takes its owner from the folder below it.
    for volume in array("VOLUME ") {
        let copied = image.lines().any(|line| {
            line.starts_with("COPY ") && line.contains("--chown=") && line.ends_with(&volume)
        });
        assert!(copied, "{volume} would belong to root");
    }
    assert!(image.contains("EXPOSE 8420 8421"));
}

#[test]
fn the_compose_file_names_what_is_there() {
    let compose = deploy("compose.yaml");
    assert!(compose.contains("dockerfile: deploy/Dockerfile"));
    assert!(compose.contains("- ./redis/dayfly.conf:/etc/redis/dayfly.conf:ro"));
    assert!(root().join("deploy/redis/dayfly.conf").exists());
    let page = std::fs::read_to_string(root().join("docs/deploying.md")).unwrap();
    assert!(compose.contains("DAYFLY_REDIS_URL:") && page.contains("env:DAYFLY_REDIS_URL"));
    assert!(
        compose.contains(":/etc/dayfly:ro"),
        "where the image's command looks"
    );
    assert!(
        !compose.contains("8421"),
        "health and metrics are not published"
    );
}

/// What the compose file has a shell do, with the paths and the program of this machine.
fn redis_of_compose(folder: &Path, password: &str) -> std::path::PathBuf {
    let compose = deploy("compose.yaml");
    let (_, script) = compose.split_once("      - |\n").unwrap();
    let (script, _) = script.split_once("    environment:").unwrap();
    let conf = root().join("deploy/redis/dayfly.conf");
    let (conf, made) = (conf.display().to_string(), folder.join("made.conf"));
    let script = script
        .replace("$$", "$")
        .replace("docker-entrypoint.sh ", "")
        .replace("/tmp/dayfly.conf", made.to_str().unwrap())
        .replace("/etc/redis/dayfly.conf", &conf);
    let script = format!(
        "#!/bin/sh\nDAYFLY_REDIS_PASSWORD={password}\n{} \"$@\"\n",
        script.trim_end()
    );
    let program = folder.join("redis");
    std::fs::write(&program, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&program, executable).unwrap();
    program
}

#[tokio::test]
async fn the_redis_of_the_compose_file_is_fit_and_lets_nobody_in_without_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let program = redis_of_compose(folder.path(), "0a1b2c3d");
    if RedisServer::start(&[]).unwrap().is_none() {
        return;
    }
    let server = RedisServer::start_as(&program, &[]).unwrap().unwrap();
    let settings = |url: String| RedisSettings::new(Secret::new(url));
    let url = server.url_as("dayfly", "0a1b2c3d");
    let store = Redis::connect(settings(url)).await.unwrap();
    let found = store.check().await.unwrap();
    assert!(found.iter().all(|one| one.fault.is_advice()), "{found:?}");
    for url in [server.url(), server.url_as("dayfly", "another")] {
        assert!(Redis::connect(settings(url)).await.is_err());
    }
    let answer = server.command("CONFIG GET maxmemory").unwrap();
    assert!(answer.starts_with("-NOPERM"), "{answer}");
}

#[test]
fn the_action_and_the_component_use_flags_that_exist() {
    let action = deploy("github-action/action.yml");
    for (key, file) in [("main", "main.mjs"), ("post", "post.mjs")] {
        assert!(action.contains(&format!("{key}: {file}")));
        let script = deploy(&format!("github-action/{file}"));
        let known = [flags("exec"), flags("token"), flags("release")].concat();
        for word in script.split('"').filter(|word| word.starts_with("--")) {
            let known = known.iter().any(|flag| flag == word) || word == "--";
            assert!(known, "{file} uses {word}");
        }
        for input in script.split("input(\"").skip(1) {
            let name = input.split('"').next().unwrap();
            assert!(
                action.contains(&format!("  {name}:")),
                "{file} reads {name}"
            );
        }
    }
    let component = deploy("gitlab/component.yml");
    let program = Cli::command();
    let exec = program.find_subcommand("exec").unwrap();
    for line in component.lines() {
        let Some((name, _)) = line.trim().split_once(": \"$") else {
            continue;
        };
        if name.starts_with("DAYFLY_") {
            let known = exec
                .get_arguments()
                .any(|one| one.get_env().is_some_and(|variable| variable == name));
            assert!(known, "`exec` does not read {name}");
        }
    }
    for input in component.split("$[[ inputs.").skip(1) {
        let name = input.split(' ').next().unwrap();
        assert!(
            component.contains(&format!("\n    {name}:")),
            "no input {name}"
        );
    }
}
