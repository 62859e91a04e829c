//! What we depend on, checked without a network: where it comes from, what it brings, under which
//! licence, and that it is used.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

struct Locked {
    name: String,
    source: Option<String>,
    checksum: bool,
    needs: Vec<String>,
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn locked() -> Vec<Locked> {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let packages = lock.get("package").unwrap().as_array().unwrap();
    assert!(packages.len() > 100, "the lock file was not understood");
    let text = |package: &toml::Value, key: &str| {
        let value = package.get(key).and_then(toml::Value::as_str);
        value.map(str::to_owned)
    };
    packages
        .iter()
        .map(|package| Locked {
            name: text(package, "name").unwrap(),
            source: text(package, "source"),
            checksum: package.get("checksum").is_some(),
            needs: package
                .get("dependencies")
                .and_then(toml::Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(toml::Value::as_str)
                .filter_map(|need| need.split(' ').next())
                .map(str::to_owned)
                .collect(),
        })
        .collect()
}

#[test]
fn every_package_comes_from_the_public_registry_with_a_checksum() {
    for package in locked() {
        if package.name == "dayfly" {
            continue;
        }
        assert_eq!(
            package.source.as_deref(),
            Some("registry+https://github.com/rust-lang/crates.io-index"),
            "{}",
            package.name
        );
        assert!(package.checksum, "{} has no checksum", package.name);
    }
}

#[test]
fn there_is_one_provider_of_cryptography_and_openssl_only_below_josekit() {
    let packages = locked();
    for barred in ["aws-lc-rs", "aws-lc-sys", "native-tls"] {
        let found = packages.iter().any(|package| package.name == barred);
        assert!(
            !found,
            "{barred} came in: look at the features of what is new"
        );
    }
    let users = |name: &str| -> Vec<&str> {
        packages
            .iter()
            .filter(|package| package.needs.iter().any(|need| need == name))
            .map(|package| package.name.as_str())
            .collect()
    };
    assert_eq!(users("openssl"), ["josekit"]);
    assert_eq!(users("openssl-sys"), ["openssl"]);
    assert!(users("ring").contains(&"dayfly"));
}

/// Names of one table of `Cargo.toml`, in the order in which they stand there.
fn dependencies(table: &str) -> Vec<String> {
    read("Cargo.toml")
        .split(&format!("\n[{table}]\n"))
        .nth(1)
        .unwrap()
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[test]
fn dependencies_stand_in_alphabetical_order() {
    for table in ["dependencies", "dev-dependencies"] {
        let listed = dependencies(table);
        assert!(!listed.is_empty());
        assert!(listed.is_sorted(), "[{table}]: {listed:?}");
    }
}

#[test]
fn every_dependency_is_used() {
    let code: Vec<_> = super::sources().into_iter().map(|(_, text)| text).collect();
    let tests = [all_text_below(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"),
    )];
    let uses = |text: &str, name: &str| {
        text.match_indices(name).any(|(at, _)| {
            let before = text.get(..at).unwrap_or("").chars().next_back();
            let after = text.get(at + name.len()..).unwrap_or("");
            let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '/');
            starts && (after.starts_with("::") || after.starts_with(';'))
        })
    };
    for name in dependencies("dependencies") {
        let name = name.replace('-', "_");
        assert!(
            code.iter().any(|text| uses(text, &name)),
            "{name} is not used in src: take it out of Cargo.toml"
        );
    }
    for name in dependencies("dev-dependencies") {
        let name = name.replace('-', "_");
        let used = code.iter().chain(&tests).any(|text| uses(text, &name));
        assert!(used, "{name} is not used in any test");
    }
}

fn all_text_below(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &all_text_below(&path);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn every_licence_is_on_the_list() {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    // Only what is built here: packages for other systems need not be on this machine.
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version=1"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let mut wrong = BTreeSet::new();
    let packages = metadata.get("packages").unwrap().as_array().unwrap();
    assert!(packages.len() > 100);
    for package in packages {
        let text = |key| package.get(key).and_then(serde_json::Value::as_str);
        let licence = text("license").unwrap_or("none");
        if !permitted(licence) {
            wrong.insert(format!("{}: {licence}", text("name").unwrap()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// An SPDX expression of which a permitted choice exists. `/` is an old `OR`.
fn permitted(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&words, &mut at) && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize) -> bool {
    let mut holds = all_of(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        holds |= all_of(words, at);
    }
    holds
}

fn all_of(words: &[&str], at: &mut usize) -> bool {
    let mut holds = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        holds &= one(words, at);
    }
    holds
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *word == "(" {
        let holds = any_of(words, at);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return holds && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or("");
        *at += 2;
        return LICENCES.contains(&format!("{word} WITH {exception}").as_str());
    }
    LICENCES.contains(word)
}

#[test]
fn a_licence_is_permitted_only_if_a_choice_of_it_is() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
    ] {
        assert!(permitted(good), "{good}");
    }
    for bad in [
        "",
        "none",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT",
        "MIT MIT",
        "MIT WITH something",
    ] {
        assert!(!permitted(bad), "{bad}");
    }
}
