//! SPIFFE IDs: `spiffe://TRUST-DOMAIN/PATH`, in the one spelling that the standard allows, so that
//! two ids are the same exactly when their texts are. SPIFFE ID sections 2.1 to 2.4.

const SCHEME: &str = "spiffe://";
const MAX_ID: usize = 2048;
const MAX_DOMAIN: usize = 255;

/// A workload's id: it has a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpiffeId<'a> {
    whole: &'a str,
    domain: &'a str,
}

impl<'a> SpiffeId<'a> {
    /// `None` for anything that is not a workload's id in its only spelling: no port, query or
    /// fragment, no percent-encoding, no empty or dotted segment, no slash at the end.
    pub fn parse(whole: &'a str) -> Option<Self> {
        if whole.len() > MAX_ID {
            return None;
        }
        let (domain, path) = whole.strip_prefix(SCHEME)?.split_once('/')?;
        (is_trust_domain(domain) && path.split('/').all(is_segment))
            .then_some(Self { whole, domain })
    }

    pub fn as_str(self) -> &'a str {
        self.whole
    }

    /// `acme.test`.
    pub fn trust_domain(self) -> &'a str {
        self.domain
    }
}

/// Whether a text claims to be a SPIFFE ID, well spelled or not.
pub fn is_spiffe(text: &str) -> bool {
    text.get(..SCHEME.len())
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

pub fn is_trust_domain(text: &str) -> bool {
    (1..=MAX_DOMAIN).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workloads_id_has_one_spelling() {
        let id = SpiffeId::parse("spiffe://acme.test/ns/shop/sa/Check-out_1.2").unwrap();
        assert_eq!(id.trust_domain(), "acme.test");
        assert_eq!(id.as_str(), "spiffe://acme.test/ns/shop/sa/Check-out_1.2");
        for bad in [
            "",
            "spiffe://",
            "spiffe:///path",
            "spiffe://acme.test",
            "spiffe://acme.test/",
            "spiffe://acme.test/a/",
            "spiffe://acme.test//a",
            "spiffe://acme.test/./a",
            "spiffe://acme.test/a/..",
            "spiffe://acme.test/a%2Fb",
            "spiffe://acme.test/a?b",
            "spiffe://acme.test/a#b",
            "spiffe://acme.test/a*",
            "spiffe://acme.test/*",
            "spiffe://acme.test/\u{e4}",
            "spiffe://acme.test:8080/a",
            "spiffe://user@acme.test/a",
            "spiffe://Acme.test/a",
            "SPIFFE://acme.test/a",
            "https://acme.test/a",
            " spiffe://acme.test/a",
        ] {
            assert_eq!(SpiffeId::parse(bad), None, "{bad:?}");
        }
        let longest = format!("spiffe://acme.test/{}", "a".repeat(MAX_ID - 19));
        assert!(SpiffeId::parse(&longest).is_some());
        assert!(SpiffeId::parse(&format!("{longest}a")).is_none());
        let domain = "a".repeat(MAX_DOMAIN + 1);
        assert!(SpiffeId::parse(&format!("spiffe://{domain}/a")).is_none());
    }

    #[test]
    fn what_calls_itself_spiffe_is_seen_however_it_is_spelled() {
        assert!(is_spiffe("spiffe://x"));
        assert!(is_spiffe("SPIFFE://x"));
        assert!(!is_spiffe("spiffe"));
        assert!(!is_spiffe("checkout-deployer"));
    }
}
