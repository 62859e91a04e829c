//! The key of one pod or one job, where its tokens cannot name one: the broker holds the instance to the
//! first key that it signs with, so the key lies where whoever comes next in the same instance finds it.
//!
//! One file for each instance, in a folder that nobody else reads. A file appears whole: of two that begin
//! at once, one makes it and both use it.

use super::ClientError;
use crate::ids;
use crate::jose::{Algorithm, SigningKey};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The instance that a token is of, by what platforms call theirs: a pod's uid, a job's id. Unverified:
/// it names a file of our own.
pub fn of_token(token: &Secret<String>) -> Option<String> {
    let (_, rest) = token.expose().split_once('.')?;
    let (payload, _) = rest.split_once('.')?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let issuer = claims.get("iss")?.as_str()?;
    let pod = claims.pointer("/kubernetes.io/pod/uid");
    let instance = match pod.or_else(|| claims.get("job_id"))? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let name = digest(
        &SHA256,
        format!("{}\n{issuer}\n{instance}", issuer.len()).as_bytes(),
    );
    Some(URL_SAFE_NO_PAD.encode(name.as_ref()))
}

/// The key of this instance, made if it is not there yet. `named`: the folder that somebody asked for;
/// without it, one of our own among temporary files, and where nothing can be written, the key is this
/// process's alone.
pub fn key(named: Option<&Path>, instance: &str) -> Result<SigningKey, ClientError> {
    let (folder, must) = match named {
        Some(folder) => (folder.to_owned(), true),
        None => (usual(), false),
    };
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    match made {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if must => return Err(failed(&folder, &error)),
        Err(_) => return fresh(),
    }
    check(&folder)?;
    let path = folder.join(format!("{instance}.key.json"));
    match read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&path, &error)),
        Ok(text) => return parse(&path, &text),
    }
    let key = fresh()?;
    match put(&folder, &path, &key) {
        Ok(()) => Ok(key),
        // Somebody else of this instance was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let text = read(&path).map_err(|error| failed(&path, &error))?;
            parse(&path, &text)
        }
        Err(error) if must => Err(failed(&path, &error)),
        Err(_) => Ok(key),
    }
}

fn usual() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    std::env::temp_dir().join(format!("dayfly-keys-{user}"))
}

fn fresh() -> Result<SigningKey, ClientError> {
    SigningKey::generate(Algorithm::Es256)
        .map_err(|error| ClientError::Local(format!("no key can be made: {error}")))
}

/// SECURITY: whoever else can write there could put a key of theirs in the place of ours.
fn check(folder: &Path) -> Result<(), ClientError> {
    let found = std::fs::symlink_metadata(folder).map_err(|error| failed(folder, &error))?;
    let own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if own && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let folder = folder.display();
    Err(ClientError::Local(format!(
        "{folder} is not a folder that this user alone may write to: name another one with --key-folder"
    )))
}

fn read(path: &Path) -> std::io::Result<Secret<String>> {
    std::fs::read_to_string(path).map(Secret::new)
}

fn parse(path: &Path, text: &Secret<String>) -> Result<SigningKey, ClientError> {
    SigningKey::from_private_jwk(text).map_err(|error| {
        let path = path.display();
        ClientError::Local(format!("the key of this instance, {path}: {error}"))
    })
}

/// Whole or not at all, and never over one that is there.
fn put(folder: &Path, path: &Path, key: &SigningKey) -> std::io::Result<()> {
    let private = key.to_private_jwk();
    let name: String = ids::random::<8>()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let fresh = folder.join(format!("new-{name}"));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(private.expose().as_bytes()))
        .and_then(|()| std::fs::hard_link(&fresh, path));
    drop(std::fs::remove_file(&fresh));
    written
}

fn failed(path: &Path, error: &std::io::Error) -> ClientError {
    let path = path.display();
    ClientError::Local(format!("the key of this instance, {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt as _;

    fn token(claims: &Value) -> Secret<String> {
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        Secret::new(format!("e30.{payload}.c2ln"))
    }

    #[test]
    fn one_instance_has_one_name_and_two_have_two() {
        let pod = |uid: &str| json!({ "iss": "a", "kubernetes.io": { "pod": { "uid": uid } } });
        let first = of_token(&token(&pod("1"))).unwrap();
        let mut renewed = pod("1");
        renewed["jti"] = json!("another");
        assert_eq!(of_token(&token(&renewed)), Some(first.clone()));
        for other in [
            pod("2"),
            json!({ "iss": "b", "kubernetes.io": { "pod": { "uid": "1" } } }),
            json!({ "iss": "a", "job_id": "302" }),
        ] {
            assert_ne!(of_token(&token(&other)).unwrap(), first, "{other}");
        }
        let number = of_token(&token(&json!({ "iss": "a", "job_id": 302 })));
        assert_eq!(
            number,
            of_token(&token(&json!({ "iss": "a", "job_id": "302" })))
        );
        for none in [json!({ "iss": "a" }), json!({ "job_id": "1" }), json!([])] {
            assert_eq!(of_token(&token(&none)), None, "{none}");
        }
        assert_eq!(of_token(&Secret::new("token".to_owned())), None);
    }

    #[test]
    fn the_key_is_found_again_and_only_its_owner_reads_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        let first = key(Some(&folder), "pod").unwrap();
        let again = key(Some(&folder), "pod").unwrap();
        assert_eq!(first.thumbprint(), again.thumbprint());
        let other = key(Some(&folder), "other").unwrap();
        assert_ne!(first.thumbprint(), other.thumbprint());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        files.sort_by_key(std::fs::DirEntry::file_name);
        assert_eq!(files.len(), 2, "nothing is left over: {files:?}");
        assert!(files.iter().all(|file| mode(&file.path()) == 0o600));
    }

    #[test]
    fn many_that_begin_at_once_have_one_key() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        let keys: Vec<String> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| key(Some(&folder), "pod").unwrap().thumbprint().to_owned()))
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|one| *one == keys[0]), "{keys:?}");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let open = parent.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(key(Some(&open), "pod").is_err());
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(key(Some(&open), "pod").is_ok());
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(key(Some(&link), "pod").is_err());
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(key(Some(&file), "pod").is_err());
        assert!(key(Some(&parent.path().join("no/such")), "pod").is_err());
    }

    #[test]
    fn a_broken_key_is_told_without_what_it_says() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("keys");
        key(Some(&folder), "pod").unwrap();
        std::fs::write(folder.join("pod.key.json"), "s3cret").unwrap();
        let error = key(Some(&folder), "pod").unwrap_err().to_string();
        assert!(
            error.contains("pod.key.json") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
