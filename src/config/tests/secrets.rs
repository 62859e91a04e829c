use crate::config::{SecretError, sealing_key, secret_reference};
use std::time::{Duration, Instant};

fn file(text: &[u8]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, text).unwrap();
    let reference = format!("file:{}", path.display());
    (dir, reference)
}

#[test]
fn a_file_holds_the_secret_and_perhaps_a_newline() {
    for text in ["hunter2", "hunter2\n", "hunter2\r\n"] {
        let (_dir, reference) = file(text.as_bytes());
        assert_eq!(secret_reference(&reference).unwrap().expose(), "hunter2");
    }
}

#[test]
fn a_command_is_run_without_a_shell() {
    let secret = secret_reference("cmd:/bin/echo $HOME ; ls").unwrap();
    assert_eq!(secret.expose(), "$HOME ; ls");
}

#[test]
fn a_command_that_fails_or_hangs_gives_no_secret() {
    assert!(matches!(
        secret_reference("cmd:/bin/false"),
        Err(SecretError::Command { .. })
    ));
    assert!(secret_reference("cmd:/no/such/program").is_err());
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    let started = Instant::now();
    assert!(secret_reference("cmd:/bin/sleep 60").is_err());
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_is_no_reference_is_not_repeated() {
    for text in ["hunter2", "hunter2:x", "", "env:", "file:"] {
        let error = secret_reference(text).unwrap_err();
        assert_eq!(error, SecretError::NotAReference);
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn empty_huge_and_binary_secrets_are_refused() {
    let (_a, empty) = file(b"\n");
    let (_b, huge) = file(&vec![b'a'; 70 * 1024]);
    let (_c, binary) = file(&[0xff, 0xfe]);
    assert!(matches!(
        secret_reference(&empty),
        Err(SecretError::Empty(_))
    ));
    assert!(matches!(
        secret_reference(&huge),
        Err(SecretError::TooLong(_))
    ));
    assert!(matches!(
        secret_reference(&binary),
        Err(SecretError::NotText(_))
    ));
    assert!(matches!(
        secret_reference("cmd:/usr/bin/head -c 100000 /dev/zero"),
        Err(SecretError::TooLong(_))
    ));
}

#[test]
fn the_environment_is_named_when_it_lacks_the_secret() {
    let error = secret_reference("env:DAYFLY_NO_SUCH_VARIABLE").unwrap_err();
    assert!(error.to_string().contains("DAYFLY_NO_SUCH_VARIABLE"));
}

#[test]
fn a_sealing_key_is_32_bytes_in_base64() {
    let good = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    for text in [good.to_owned(), format!("{good}=\n")] {
        let (_dir, reference) = file(text.as_bytes());
        let key = sealing_key(&reference).unwrap();
        assert_eq!(key.expose(), &(0..32).collect::<Vec<u8>>());
    }
    let short = good.trim_end_matches("h8");
    for text in ["AAEC", "not base64!", short] {
        let (_dir, reference) = file(text.as_bytes());
        let error = sealing_key(&reference).unwrap_err();
        assert!(matches!(error, SecretError::NotASealingKey(_)));
        assert!(!error.to_string().contains(text), "{error}");
    }
}
