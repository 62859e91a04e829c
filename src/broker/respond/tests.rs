use super::deliver::{mail, recipients};
use super::work::{APART, pause};
use super::*;
use crate::audit::Event;
use crate::ids::tests::is_spread;
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
    let mut fires =
        |agent, after| response.counts(&refused(agent, after), &mut seen) == Counted::Last;
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
    let counts = |response: &ResponseSettings, entry: &Entry| {
        response.counts(entry, &mut Seen::new()) == Counted::Last
    };
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
    let dormant = ResponseSettings {
        on: On::Dormant,
        ..one.clone()
    };
    let suspended = |why: &str| Entry::new(Event::Suspended, NOW).agent("a").reason(why);
    assert!(counts(&dormant, &suspended("dormant")));
    assert!(!counts(&dormant, &suspended("drift")));
    assert!(!counts(&dormant, &entry().reason("dormant")));
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
    let message = Message::of(&entry, &response(), Owners::default());
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

#[test]
fn the_last_but_one_is_told_where_the_last_stops_something() {
    let mut seen = Seen::new();
    let counted: Vec<_> = [0, 10, 20, 30, 40]
        .map(|after| response().counts(&refused("a", after), &mut seen))
        .into();
    use Counted::{Last, LastButOne, No};
    assert_eq!(counted, [No, LastButOne, Last, No, LastButOne]);
    assert!(response().warns());
    for actions in [vec![Action::Notify], vec![Action::Suspend]] {
        let other = ResponseSettings {
            actions,
            ..response()
        };
        assert!(!other.warns());
    }
    let message = Message::of(&refused("a", 0), &response(), Owners::default());
    let soon = message.clone().soon();
    assert_ne!(soon.id, message.id);
    assert_eq!((soon.count, soon.soon, soon.actions.len()), (2, true, 0));
    assert!(soon.why.unwrap().ends_with("and: suspend"));
}

#[test]
fn a_mail_goes_to_whoever_answers_for_it_and_to_one_address_each() {
    let owners = Owners {
        owner: Some("ann@acme.example".to_owned()),
        backup: Some("bob@acme.example, eve@example.com".to_owned()),
    };
    let message = Message::of(&refused("a", 0), &response(), owners);
    let to = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        recipients(&message, &names)
    };
    assert_eq!(to(&["owner"]), ["ann@acme.example"]);
    assert!(to(&["backup_owner"]).is_empty());
    assert_eq!(
        to(&["x@y.example", "owner", "owner"]),
        ["x@y.example", "ann@acme.example"]
    );
}

#[test]
fn what_is_read_once_more_after_a_failover_counts_once() {
    let responses = Responses {
        responses: vec![ResponseSettings {
            count: 2,
            actions: vec![Action::Suspend],
            ..response()
        }],
        notify: Vec::new(),
    };
    let (mut seen, mut answered) = (Seen::new(), Answered::new());
    let mut asked = |entries: &[&Entry]| {
        let entries: Vec<_> = entries.iter().copied().cloned().collect();
        let counts = (&mut seen, &mut answered);
        responses.asked(&entries, |_| None, counts).len()
    };
    let entries: Vec<_> = (0..4).map(|after| refused("a", after)).collect();
    let [first, second, third, fourth] = entries.as_slice() else {
        panic!("four");
    };
    assert_eq!(asked(&[first]), 0);
    assert_eq!(asked(&[first]), 0, "it is the same one");
    assert_eq!(asked(&[first, second]), 1);
    assert_eq!(asked(&[first, second, third]), 0, "one of the next two");
    assert_eq!(asked(&[third, fourth]), 1);
}

#[test]
fn what_nobody_took_is_brought_again_later_and_later_and_not_all_of_it_at_once() {
    for (attempts, seconds) in [(0, 1), (1, 2), (5, 32), (9, 512), (10, 600), (1000, 600)] {
        let least = Duration::from_secs(seconds);
        is_spread(least, least + APART, || pause(attempts).unsigned_abs());
    }
}
