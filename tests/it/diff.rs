//! `dayfly diff` between two folders and between two git revisions.

use crate::cli::dayfly;
use std::path::Path;
use std::process::Command;

fn git(dir: &Path, arguments: &[&str]) {
    let done = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["-c", "user.name=test", "-c", "user.email=test@localhost"])
        .args([
            "-c",
            "commit.gpgsign=false",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_is_told_what_it_widens_and_who_must_agree() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("authority");
    std::fs::create_dir(&folder).unwrap();
    let example = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/config/example/dayfly.toml"
    ));
    let example = example.unwrap();
    let file = folder.join("dayfly.toml");
    std::fs::write(&file, &example).unwrap();
    git(work.path(), &["init", "-q"]);
    git(work.path(), &["add", "."]);
    git(work.path(), &["commit", "-q", "-m", "before"]);
    let wider = example.replace(
        "service/prod/checkout\"] }]\ntether",
        "service/prod/*\"] }]\ntether",
    );
    assert_ne!(wider, example);
    std::fs::write(&file, &wider).unwrap();
    git(work.path(), &["commit", "-q", "-a", "-m", "after"]);

    let (path, dir) = (environment(), folder.to_str().unwrap());
    let path = [("PATH", path.as_str())];
    let told = dayfly(&["diff", "HEAD~1..HEAD", "--config", dir], &path, "").await;
    told.is(0);
    let gains = "+ checkout-deployer gains on aws-prod, by deploy-checkout: ecs:UpdateService";
    assert!(told.out.contains(gains), "{told:?}");
    assert!(told.out.contains("service/prod/*"), "{told:?}");
    let approval = "approval of sre@acme.example for mission.deploy-checkout";
    assert!(told.out.contains(approval), "{told:?}");
    let strict = ["diff", "HEAD~1..HEAD", "--config", dir, "--fail-on-wider"];
    dayfly(&strict, &path, "").await.is(3);
    // What lies there is what was committed last.
    let same = dayfly(&["diff", "HEAD..", "--config", dir], &path, "").await;
    assert!(same.is(0).out.contains("no authority changes"), "{same:?}");

    let old = tempfile::tempdir().unwrap();
    std::fs::write(old.path().join("dayfly.toml"), &example).unwrap();
    let old = old.path().to_str().unwrap();
    let json = dayfly(&["diff", old, dir, "-o", "json"], &[], "")
        .await
        .json();
    assert_eq!(json["reach"][0]["agent"], "checkout-deployer");
    assert_eq!(json["approvals"][0]["owner"], "sre@acme.example");

    dayfly(&["diff", "nonsense", "--config", dir], &path, "")
        .await
        .is(2);
    dayfly(
        &["diff", "--config", dir, "--", "--output=x..HEAD"],
        &path,
        "",
    )
    .await
    .is(2);
    dayfly(&["diff", "no-such..HEAD", "--config", dir], &path, "")
        .await
        .is(1);
}

fn environment() -> String {
    std::env::var_os("PATH").unwrap().into_string().unwrap()
}
