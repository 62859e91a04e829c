//! `diff`: which authority a change of the configuration widens or narrows, for the pull request that
//! makes it.

use super::output::{Failure, Output};
use crate::client::deliver::Folder;
use crate::config::{self, Settings};
use clap::Args;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Two git revisions (`main..HEAD`; `main..` compares with the folder as it lies there), or the folder as it was.
    #[arg(value_name = "OLD..NEW|FOLDER")]
    from: String,
    /// The folder as it is, where the first argument is a folder.
    #[arg(value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// The configuration folder within the git work tree.
    #[arg(long, default_value = ".")]
    config: PathBuf,
    /// Exit with 3 if anything is widened, or may be.
    #[arg(long)]
    fail_on_wider: bool,
}

/// More is no configuration.
const MOST_FILES: usize = 5000;

pub fn diff(args: &DiffArgs, output: &Output) -> Result<u8, Failure> {
    let (before, after) = match (&args.to, args.from.split_once("..")) {
        (Some(to), _) => (load(Path::new(&args.from))?, load(to)?),
        (None, Some((old, new))) => {
            let old = at_revision(&args.config, old)?;
            let new = match new {
                "" => load(&args.config)?,
                new => at_revision(&args.config, new)?,
            };
            (old, new)
        }
        (None, None) => {
            return Err(Failure::usage(
                "write OLD..NEW (git revisions), or two folders",
            ));
        }
    };
    let changes = config::changes(&before, &after).map_err(|wrong| {
        let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        Failure::failed(lines.join("\n"))
    })?;
    output.show(&changes, ToString::to_string)?;
    let fails = args.fail_on_wider && !changes.approvals.is_empty();
    Ok(if fails { 3 } else { 0 })
}

fn load(dir: &Path) -> Result<Settings, Failure> {
    config::load(dir)
        .and_then(|document| document.resolve())
        .map_err(|problems| Failure::failed(format!("{}:\n{problems}", dir.display())))
}

/// The folder as it is in a revision, in a folder of this process alone while it is read.
fn at_revision(dir: &Path, revision: &str) -> Result<Settings, Failure> {
    // SECURITY: a revision is no option of git's.
    if revision.is_empty() || revision.starts_with('-') {
        return Err(Failure::usage(format!("`{revision}` is no revision")));
    }
    let listed = git(
        dir,
        &["ls-tree", "-r", "-z", "--name-only", revision, "--", "."],
    )?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let names: Vec<_> = listed.split('\0').filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.len() > MOST_FILES {
        let count = names.len();
        let place = dir.display();
        return Err(Failure::usage(format!(
            "`{place}` has {count} files in {revision}"
        )));
    }
    let folder = Folder::make(&std::env::temp_dir())?;
    for name in names {
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if !Path::new(name).components().all(is_plain) {
            continue;
        }
        let path = folder.path().join(name);
        let problem = |error: std::io::Error| Failure::failed(format!("{name}: {error}"));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(problem)?;
        }
        let bytes = git(dir, &["show", &format!("{revision}:./{name}")])?;
        std::fs::write(&path, bytes).map_err(problem)?;
    }
    config::load(folder.path())
        .and_then(|document| document.resolve())
        .map_err(|problems| Failure::failed(format!("{revision}:\n{problems}")))
}

fn git(dir: &Path, arguments: &[&str]) -> Result<Vec<u8>, Failure> {
    let done = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(arguments)
        .output()
        .map_err(|error| Failure::failed(format!("git cannot be started: {error}")))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Failure::failed(format!("git: {}", said.trim())))
}
