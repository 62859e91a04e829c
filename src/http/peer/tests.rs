use super::*;
use axum::http::HeaderValue;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn seen(connected: &str, forwarded: &[&str], trusted: &[&str]) -> String {
    let mut headers = HeaderMap::new();
    for value in forwarded {
        headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
    }
    let trusted: Vec<Network> = trusted.iter().map(|text| text.parse().unwrap()).collect();
    let Peer(peer) = Peer::of(Some(ip(connected)), &headers, &trusted);
    peer.unwrap().to_string()
}

#[test]
fn a_stranger_cannot_choose_its_own_address() {
    assert_eq!(seen("198.51.100.1", &["203.0.113.9"], &[]), "198.51.100.1");
    assert_eq!(
        seen("198.51.100.1", &["203.0.113.9"], &["10.0.0.0/8"]),
        "198.51.100.1"
    );
}

#[test]
fn a_named_proxy_is_believed_up_to_the_first_stranger() {
    let proxies = &["10.0.0.0/8", "2001:db8::/32"][..];
    assert_eq!(seen("10.1.1.1", &["203.0.113.9"], proxies), "203.0.113.9");
    assert_eq!(
        seen("10.1.1.1", &["1.2.3.4, 203.0.113.9, 10.2.2.2"], proxies),
        "203.0.113.9"
    );
    assert_eq!(
        seen("10.1.1.1", &["1.2.3.4", "203.0.113.9"], proxies),
        "203.0.113.9"
    );
    assert_eq!(
        seen("2001:db8::7", &["203.0.113.9:80"], proxies),
        "203.0.113.9"
    );
    assert_eq!(
        seen("::ffff:10.1.1.1", &["203.0.113.9"], proxies),
        "203.0.113.9"
    );
    assert_eq!(seen("10.1.1.1", &["unknown"], proxies), "10.1.1.1");
    assert_eq!(seen("10.1.1.1", &[], proxies), "10.1.1.1");
}

#[test]
fn networks_hold_what_they_say() {
    let holds =
        |network: &str, address: &str| network.parse::<Network>().unwrap().contains(ip(address));
    assert!(holds("10.0.0.0/8", "10.255.0.1"));
    assert!(!holds("10.0.0.0/8", "11.0.0.1"));
    assert!(holds("192.0.2.7", "192.0.2.7"));
    assert!(!holds("192.0.2.7", "192.0.2.6"));
    assert!(holds("0.0.0.0/0", "192.0.2.6"));
    assert!(!holds("0.0.0.0/0", "::1"));
    assert!(holds("::/0", "2001:db8::1"));
    for bad in [
        "",
        "10.0.0.0/33",
        "10.0.0.0/",
        "a/8",
        "::/129",
        "10.0.0.0/-1",
    ] {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
}

fn bucket() -> Bucket {
    Bucket::new(Rate {
        per_second: NonZeroU32::MIN,
        burst: NonZeroU32::new(2).unwrap(),
    })
}

#[test]
fn who_knocks_too_often_waits_and_nobody_else_does() {
    let bucket = bucket();
    let peer = Peer(Some(ip("192.0.2.1")));
    assert_eq!(bucket.take(peer), Ok(()));
    assert_eq!(bucket.take(peer), Ok(()));
    assert_eq!(bucket.take(peer), Err(1));
    assert_eq!(bucket.take(Peer(Some(ip("192.0.2.2")))), Ok(()));
}

#[test]
fn a_host_with_a_whole_network_is_one_peer() {
    let bucket = bucket();
    for n in 0..2 {
        assert_eq!(
            bucket.take(Peer(Some(ip(&format!("2001:db8::{n}"))))),
            Ok(())
        );
    }
    assert!(bucket.take(Peer(Some(ip("2001:db8::ffff")))).is_err());
    assert_eq!(bucket.take(Peer(Some(ip("2001:db8:0:1::1")))), Ok(()));
}
