use super::deliver::mail;
use super::*;
use crate::audit::Event;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

fn response() -> ResponseSettings {
    ResponseSettings {
        name: "wanders".to_owned(),
        on: On::Refusal(Reason::ExceedsMission),
        agent: None,
        mission: None,
        count: 3,
        within: Duration::from_secs(600),
        actions: vec![Action::Suspend, Action::Notify],
        notify: Vec::new(),
    }
}

fn refused(agent: &str, after: i64) -> Entry {
    let at = NOW + time::Duration::seconds(after);
    Entry::new(Event::Refused, at)
        .agent(agent)
        .reason("exceeds_mission")
}

#[test]
fn the_last_of_so_many_within_the_time_counts_and_then_it_begins_anew() {
    let (response, mut seen) = (response(), Seen::new());
    let mut fires = |agent, after| response.counts(&refused(agent, after), &mut seen);
    assert!(!fires("a", 0));
    assert!(!fires("a", 10));
    assert!(!fires("b", 11), "each agent by itself");
    assert!(!fires("a", 605), "the first is too long ago");
    assert!(fires("a", 609));
    assert!(!fires("a", 610), "counted anew");
}

#[test]
fn it_is_about_its_own_event_reason_agent_and_mission() {
    let one = ResponseSettings {
        count: 1,
        ..response()
    };
    let entry = || refused("a", 0).mission("deploy");
    let counts =
        |response: &ResponseSettings, entry: &Entry| response.counts(entry, &mut Seen::new());
    assert!(counts(&one, &entry()));
    assert!(!counts(&one, &entry().reason("held")));
    assert!(!counts(
        &one,
        &Entry::new(Event::Ended, NOW).reason("exceeds_mission")
    ));
    let by_event = ResponseSettings {
        on: On::Event(Event::Refused),
        ..one.clone()
    };
    assert!(counts(&by_event, &entry().reason("held")));
    assert!(!counts(&by_event, &Entry::new(Event::Ended, NOW)));
    let of_agent = |name: &str| ResponseSettings {
        agent: Some(name.parse().unwrap()),
        ..one.clone()
    };
    assert!(counts(&of_agent("a"), &entry()));
    assert!(!counts(&of_agent("b"), &entry()));
    let of_mission = |name: &str| ResponseSettings {
        mission: Some(name.parse().unwrap()),
        ..one.clone()
    };
    assert!(counts(&of_mission("deploy"), &entry()));
    assert!(!counts(&of_mission("other"), &entry()));
    // A refused request's mission is the one that it named.
    let named = refused("a", 0).with("asked", serde_json::json!([]));
    let named = named.with("mission", "deploy");
    assert!(counts(&of_mission("deploy"), &named));
}

#[test]
fn what_an_agent_chose_adds_no_header_to_a_mail() {
    let mut entry = refused("a", 0).with("why", "x\r\nBcc: eve@example.com");
    entry.agent = Some("a\nTo: eve@example.com".to_owned());
    let message = Message::of(&entry, &response(), None);
    let text = mail(&message, &["security@acme.example".to_owned()]);
    let (head, body) = text.split_once("\n\n").unwrap();
    let heads: Vec<_> = head
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    assert_eq!(heads, ["To", "Subject", "Auto-Submitted", "Content-Type"]);
    assert!(body.lines().all(|line| !line.starts_with("Bcc")));
    assert!(body.contains("done         suspend\n"), "{body}");
}
