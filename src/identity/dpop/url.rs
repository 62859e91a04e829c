//! Whether an `htu` is the URL of a door: compared as RFC 9449 section 4.3 asks for it, after the
//! syntax-based and scheme-based normalisation of RFC 3986 sections 6.2.2 and 6.2.3, without query and
//! fragment.

use ::url::Url;

const MAX: usize = 2048;

pub(super) fn same(htu: &str, door: &str) -> bool {
    match (normal(htu), normal(door)) {
        (Some(htu), Some(door)) => htu == door,
        _ => false,
    }
}

fn normal(text: &str) -> Option<String> {
    // SECURITY: a parser of browsers drops control characters, takes `\` for `/` and does without the
    // slashes before a host. What needs such mending is not the URL of a door.
    let visible = text.bytes().all(|byte| matches!(byte, 0x21..=0x7e));
    if text.len() > MAX || !visible || text.contains('\\') || !text.contains("://") {
        return None;
    }
    // Lower case for scheme and host, no default port, no dot segments, `/` for an empty path.
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !plain {
        return None;
    }
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let (scheme, host, path) = (url.scheme(), url.host_str()?, escapes(url.path())?);
    Some(format!("{scheme}://{host}{port}{path}"))
}

/// Escapes in upper case, and none for what needs none.
fn escapes(path: &str) -> Option<String> {
    let mut pieces = path.split('%');
    let mut normal = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            normal.push(char::from(byte));
        } else {
            normal.push('%');
            normal.push_str(&digits.to_ascii_uppercase());
        }
        normal.push_str(rest);
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DOOR: &str = "https://broker.example/dayfly/token";

    #[test]
    fn spellings_of_one_url_are_the_same() {
        for htu in [
            DOOR,
            "HTTPS://Broker.Example/dayfly/token",
            "https://broker.example:443/dayfly/token",
            "https://broker.example/dayfly/token?a=b",
            "https://broker.example/dayfly/token#part",
            "https://broker.example/dayfly/x/../token",
            "https://broker.example/./dayfly/token",
            "https://broker.example/dayfly/%74oken",
            "https://broker.example/dayfly/%74%6F%6ben",
        ] {
            assert!(same(htu, DOOR), "{htu}");
        }
        assert!(same("http://127.0.0.1:80", "http://127.0.0.1/"));
        assert!(same("https://b.example/a%2fb", "https://b.example/a%2Fb"));
    }

    #[test]
    fn another_url_is_not() {
        for htu in [
            "",
            "token",
            "/dayfly/token",
            "http://broker.example/dayfly/token",
            "https://other.example/dayfly/token",
            "https://broker.example.other.example/dayfly/token",
            "https://broker.example:8443/dayfly/token",
            "https://broker.example/token",
            "https://broker.example/dayfly/token/",
            "https://broker.example/dayfly//token",
            "https://broker.example/dayfly/TOKEN",
            "https://broker.example/dayfly%2Ftoken",
            "https://broker.example/dayfly/token%",
            "https://broker.example/dayfly/token%0",
            "https://broker.example/dayfly/token%+7",
            "https://broker.example@other.example/dayfly/token",
            "https://user@broker.example/dayfly/token",
            "https://:secret@broker.example/dayfly/token",
            "https:/broker.example/dayfly/token",
            "https:broker.example/dayfly/token",
            "https:\\\\broker.example/dayfly/token",
            "https://broker.example\\dayfly\\token",
            " https://broker.example/dayfly/token",
            "https://broker.example/dayfly/to\tken",
            "https://broker.example/dayfly/tok\u{e9}n",
            "ftp://broker.example/dayfly/token",
        ] {
            assert!(!same(htu, DOOR), "{htu}");
        }
        assert!(!same(&format!("{DOOR}?{}", "a".repeat(MAX)), DOOR));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_compared_without_a_panic(htu in ".{0,64}", path in "[a-z%0-9./]{0,32}") {
            let _ = same(&htu, DOOR);
            let _ = same(&format!("https://broker.example/{path}"), DOOR);
        }
    }
}
