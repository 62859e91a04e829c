//! What a record makes of what people say, and what makes two requests one.

use super::record::{Record, asked, draw, is_asked, is_id, key_of, read};
use crate::authority::{Authority, Permission};
use crate::policy::{ApprovalTerms, ToApprove};
use crate::secret::{Sealer, Secret};
use crate::store::Write;
use crate::wire::{ApprovalState, Verdict, Vote};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

fn what() -> ToApprove {
    ToApprove {
        agent: "checkout-deployer".parse().unwrap(),
        issuer: "ci".parse().unwrap(),
        subject: "repo:acme/checkout".to_owned(),
        in_person: false,
        instance: None,
        mission: "deploy-checkout".parse().unwrap(),
        target: "orders-api".parse().unwrap(),
        detail_type: "access_token".to_owned(),
        authority: Authority(vec![Permission {
            actions: vec!["orders:read".to_owned()],
            locations: Vec::new(),
        }]),
        audience: "orders-api".to_owned(),
        task: None,
        chain: Vec::new(),
        contexts: Vec::new(),
        bound: false,
    }
}

fn record() -> Record {
    Record {
        id: draw(&asked(&what(), "Ship it").unwrap()),
        what: what(),
        goal: "Ship it".to_owned(),
        owner: "payments@acme.example".to_owned(),
        facts: Default::default(),
        issuer_url: "https://ci.example".to_owned(),
        requesters: Vec::new(),
        max_ttl: 900,
        asked_at: NOW,
        votes: Vec::new(),
        voters: Vec::new(),
        approved_at: None,
        state: ApprovalState::Pending,
        until: NOW + Duration::HOUR,
    }
}

fn vote(by: &str, verdict: Verdict) -> (Vote, Option<String>) {
    let vote = Vote {
        by: by.to_owned(),
        verdict,
        at: NOW + Duration::MINUTE,
        reason: None,
    };
    (vote, None)
}

fn sealer(byte: u8) -> Sealer {
    Sealer::new(&[Secret::new(vec![byte; 32])]).unwrap()
}

fn two() -> ApprovalTerms {
    ApprovalTerms {
        count: 2,
        lasts: std::time::Duration::from_secs(600),
        ..ApprovalTerms::default()
    }
}

#[test]
fn enough_different_people_make_it_approved_from_the_last_yes_on() {
    let mut record = record();
    record.take(vote("ann", Verdict::Approve), &two());
    record.take(vote("ann", Verdict::Approve), &two());
    assert_eq!(record.state, ApprovalState::Pending);
    assert_eq!(record.until, NOW + Duration::HOUR);
    record.take(vote("bob", Verdict::Approve), &two());
    assert_eq!(record.state, ApprovalState::Approved);
    assert_eq!(record.until, NOW + Duration::MINUTE * 11);
    let approval = record.approval(&[]).unwrap();
    assert_eq!(approval.since, NOW + Duration::MINUTE);
    assert_eq!(approval.by, ["ann", "bob"]);
    // One more does not make it last longer.
    let mut late = vote("cleo", Verdict::Approve);
    late.0.at = NOW + Duration::MINUTE * 9;
    record.take(late, &two());
    assert_eq!(record.until, NOW + Duration::MINUTE * 11);
}

#[test]
fn one_no_is_enough_and_stays() {
    let mut record = record();
    record.take(vote("ann", Verdict::Approve), &two());
    record.take(vote("ann", Verdict::Deny), &two());
    assert_eq!(record.state, ApprovalState::Denied);
    assert_eq!(record.votes.len(), 1, "she took it back");
    for name in ["bob", "cleo"] {
        record.take(vote(name, Verdict::Approve), &two());
    }
    assert_eq!(record.state, ApprovalState::Denied);
    assert_eq!(record.until, NOW + Duration::HOUR);
}

#[test]
fn each_thing_that_people_read_makes_another_id() {
    let changes: [fn(&mut ToApprove); 14] = [
        |what| what.issuer = "other".parse().unwrap(),
        |what| what.subject = "other".to_owned(),
        |what| what.in_person = true,
        |what| what.agent = "other".parse().unwrap(),
        |what| what.instance = Some("a".to_owned()),
        |what| what.mission = "other".parse().unwrap(),
        |what| what.target = "other".parse().unwrap(),
        |what| what.detail_type = "api_key".to_owned(),
        |what| what.authority.0[0].actions.push("orders:write".to_owned()),
        |what| what.audience = "https://other.example".to_owned(),
        |what| what.task = Some("t".to_owned()),
        |what| what.chain.push("people:ann".to_owned()),
        |what| what.contexts.push(("pipeline".to_owned(), "1".to_owned())),
        |what| what.bound = true,
    ];
    let known = asked(&what(), "Ship it").unwrap();
    assert!(is_asked(&known), "{known}");
    assert_eq!(known, asked(&what(), "Ship it").unwrap());
    assert_eq!(known, asked(&what(), " Ship\n  it ").unwrap(), "blanks");
    assert_ne!(known, asked(&what(), "Ship it now").unwrap());
    let mut seen = vec![known];
    for change in changes {
        let mut other = what();
        change(&mut other);
        let other = asked(&other, "Ship it").unwrap();
        assert!(!seen.contains(&other));
        seen.push(other);
    }
}

#[test]
fn asked_anew_it_is_another_and_about_the_same() {
    let known = asked(&what(), "Ship it").unwrap();
    let (one, other) = (draw(&known), draw(&known));
    assert!(is_id(&one) && !is_id(&known) && !is_asked(&one));
    assert_ne!(one, other);
    assert_eq!((key_of(&one), key_of(&other)), (&*known, &*known));
}

#[test]
fn one_person_counts_once_under_whatever_name() {
    let by = |name: &str, subject: &str| {
        let (vote, _) = vote(name, Verdict::Approve);
        (vote, Some(subject.to_owned()))
    };
    for (first, second) in [
        (by("ann@acme.example", "17"), by("17", "17")),
        (by("17", "17"), by("ann@acme.example", "17")),
        (by("ann@acme.example", "17"), by("Ann@acme.example", "18")),
        (by("ann@acme.example", "17"), by("ann.b@acme.example", "17")),
    ] {
        let mut record = record();
        record.take(first, &two());
        record.take(second, &two());
        assert_eq!(record.state, ApprovalState::Pending);
        assert_eq!((record.votes.len(), record.voters.len()), (1, 1));
        record.take(by("bob@acme.example", "19"), &two());
        assert_eq!(record.state, ApprovalState::Approved);
    }
}

#[test]
fn the_yes_of_whoever_has_come_to_own_it_does_not_count() {
    let mut record = record();
    for name in ["ann", "bob"] {
        record.take(vote(name, Verdict::Approve), &two());
    }
    let by = |requesters: &[&str]| {
        let requesters: Vec<_> = requesters.iter().map(|name| (*name).to_owned()).collect();
        record.approval(&requesters).unwrap().by
    };
    assert_eq!(by(&["cleo"]), ["ann", "bob"]);
    assert_eq!(by(&["ANN"]), ["bob"]);
}

#[test]
fn nothing_else_passes_for_an_id() {
    let good = draw(&asked(&what(), "Ship it").unwrap());
    let bad = [
        good.to_uppercase(),
        good.replace("apr_", ""),
        format!("{good}0"),
        good.replace('-', "_"),
        key_of(&good).to_owned(),
        String::new(),
        "apr_../../../../../../../../../../../../etc/-01234567".to_owned(),
    ];
    for bad in bad {
        assert!(!is_id(&bad), "{bad}");
    }
}

#[test]
fn a_record_that_is_not_ours_or_anothers_says_nothing() {
    let ours = sealer(7);
    let record = record();
    let Write::Put { value, .. } = record.put(&ours).unwrap() else {
        panic!("a record is put");
    };
    assert_eq!(read(&ours, &record.id, &value), Some(record.clone()));
    assert_eq!(read(&ours, "apr_another-00000000", &value), None);
    let mut spoiled = value.clone();
    *spoiled.last_mut().unwrap() ^= 1;
    assert_eq!(read(&ours, &record.id, &spoiled), None);
    assert_eq!(read(&sealer(8), &record.id, &value), None);
}
