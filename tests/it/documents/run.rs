//! Running a document's commands in a folder of their own, on ports of their own.

use super::Block;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

const DAYFLY: &str = env!("CARGO_BIN_EXE_dayfly");

pub fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The program, without anything of this environment that it would read.
pub fn dayfly(arguments: &[&str], folder: &Path) -> Output {
    Command::new(DAYFLY)
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .output()
        .unwrap()
}

fn free_ports() -> (u16, u16) {
    let one = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    (
        one.local_addr().unwrap().port(),
        other.local_addr().unwrap().port(),
    )
}

/// Runs every `sh` block, then looks for what the `text` blocks show.
pub fn document(path: &Path, blocks: &[Block]) {
    let folder = tempfile::tempdir().unwrap();
    let example = folder.path().join("config/example");
    std::fs::create_dir_all(&example).unwrap();
    let source = super::root().join("config/example/dayfly.toml");
    std::fs::copy(source, example.join("dayfly.toml")).unwrap();
    let (port, health) = free_ports();
    let here = |text: &str| {
        text.replace("127.0.0.1:8420", &format!("127.0.0.1:{port}"))
            .replace("127.0.0.1:8421", &format!("127.0.0.1:{health}"))
    };
    let mut script =
        "set -euo pipefail\npids=()\ntrap 'for pid in \"${pids[@]}\"; do kill $pid; done' EXIT\n"
            .to_owned();
    for block in blocks {
        let text = here(&block.text);
        match block.info.as_str() {
            "sh" => writeln!(script, "echo '== {}' >&2\n{text}", block.place()).unwrap(),
            "sh background" => writeln!(
                script,
                "( exec {1} ) > {0}/background.log 2>&1 &\npids+=($!)\n\
                 for _ in $(seq 400); do curl -sf http://127.0.0.1:{health}/readyz > {0}/ready.txt && break; sleep 0.05; done\n\
                 test -s {0}/ready.txt || cat {0}/background.log",
                folder.path().display(),
                text.trim()
            )
            .unwrap(),
            _ => {}
        }
    }
    let bin = Path::new(DAYFLY).parent().unwrap();
    let search = std::env::var_os("PATH").unwrap();
    let output = Command::new("timeout")
        .args(["120", "bash", "-c", &script])
        .current_dir(folder.path())
        .env_clear()
        .env("HOME", folder.path())
        .env("PATH", format!("{}:{}", bin.display(), search.display()))
        .env("DAYFLY_URL", format!("http://127.0.0.1:{port}"))
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let log = std::fs::read_to_string(folder.path().join("background.log")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}: {}\n{said}\n{log}",
        path.display(),
        output.status
    );
    for block in blocks.iter().filter(|block| block.info == "text") {
        let shown = Block {
            document: block.document.clone(),
            line: block.line,
            info: block.info.clone(),
            text: here(&block.text),
        };
        shown_in(&shown, &said);
    }
}

/// Every line of the block was said, but for ids, times and numbers.
pub fn shown_in(block: &Block, said: &str) {
    let lines: Vec<_> = said.lines().map(masked).collect();
    for (number, line) in block.text.lines().enumerate() {
        let pieces: Vec<_> = format!("{line} ").split(" ... ").map(masked).collect();
        let found = lines.iter().any(|said| {
            let mut rest = said.as_str();
            pieces
                .iter()
                .all(|piece| match rest.split_once(piece.as_str()) {
                    Some((_, behind)) => {
                        rest = behind;
                        true
                    }
                    None => false,
                })
        });
        assert!(
            found,
            "{}:{}: not what was printed: {line}\n{said}",
            block.document.display(),
            block.line + number + 1
        );
    }
}

fn masked(line: &str) -> String {
    let words: Vec<_> = line
        .split_whitespace()
        .map(|word| {
            let core = word.trim_matches(|c: char| !c.is_alphanumeric());
            let is_lease = core.len() == 29 && core.starts_with("dfl");
            let is_uuid = core.len() == 36 && core.matches('-').count() == 4;
            if is_lease || is_uuid {
                return word.replace(core, "ID");
            }
            word.chars()
                .map(|c| if c.is_ascii_digit() { '0' } else { c })
                .collect::<String>()
        })
        .collect();
    let mut text = words.join(" ");
    while text.contains("00") {
        text = text.replace("00", "0");
    }
    text
}
