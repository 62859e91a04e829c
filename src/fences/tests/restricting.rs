use super::fold::add;
use super::{NOW, agent, fence};
use crate::authority::{Authority, Permission, Vocabulary};
use crate::fences::raise::audited;
use crate::fences::{
    By, Dimension, DimensionKind, Fence, FenceKind, LONGEST_LIFETIME, MARGIN, Restriction, View,
    again, snapshot,
};
use std::slice::from_ref;
use std::time::Duration;

fn authority(action: &str) -> Authority {
    Authority(vec![Permission {
        actions: vec![action.to_owned()],
        locations: vec!["*".to_owned()],
    }])
}

fn restrict(ends_leases: bool) -> Fence {
    let target = Dimension::new(DimensionKind::Target, "orders");
    Fence {
        restriction: Some(Restriction {
            denied: authority("orders:write"),
            ends_leases,
            longest: None,
            approval: false,
        }),
        ..fence(FenceKind::Restrict, target)
    }
}

fn lift(of: &Fence) -> Fence {
    let id = Dimension::new(DimensionKind::Restriction, of.id.to_string());
    fence(FenceKind::Lift, id)
}

fn denied(view: &View, target: &str) -> usize {
    view.denied_on(target).count()
}

fn is_cut(view: &View, action: &str, before: &View) -> bool {
    let may = authority(action);
    let may = (Some(Vocabulary::Scopes), &may);
    view.cut_by("orders", may, before.position()).is_some()
}

#[test]
fn it_stands_on_its_own_target_until_its_own_lift() {
    let restriction = restrict(false);
    let view = add(&View::origin(), &restriction);
    assert_eq!((denied(&view, "orders"), denied(&view, "other")), (1, 0));
    let target = [restriction.dimension.hash()];
    assert_eq!(view.held(&target), None, "it is no hold");
    let dead = view.ended_by(&target, View::origin().position());
    assert_eq!(dead, None, "and it ends nothing by itself");
    for other in [lift(&restrict(false)), fence(FenceKind::Lift, agent("a"))] {
        assert_eq!(denied(&add(&view, &other), "orders"), 1);
    }
    assert_eq!(denied(&add(&view, &lift(&restriction)), "orders"), 0);
}

#[test]
fn it_ends_older_leases_only_where_it_says_so_and_only_those_that_could_do_it() {
    let before = View::origin();
    assert!(!is_cut(
        &add(&before, &restrict(false)),
        "orders:write",
        &before
    ));
    let after = add(&before, &restrict(true));
    assert!(is_cut(&after, "orders:write", &before));
    assert!(is_cut(&after, "orders:*", &before));
    assert!(!is_cut(&after, "orders:read", &before));
    assert!(!is_cut(&after, "orders:write", &after), "decided after it");
    let unknown = (None, &authority("orders:read"));
    let unknown = after.cut_by("orders", unknown, before.position());
    assert!(unknown.is_some(), "what cannot be compared is ended");
    let elsewhere = authority("orders:write");
    let elsewhere = (Some(Vocabulary::Scopes), &elsewhere);
    assert_eq!(after.cut_by("other", elsewhere, before.position()), None);
}

#[test]
fn what_it_ended_stays_dead_when_it_is_lifted_or_past() {
    let before = View::origin();
    let mut restriction = restrict(true);
    restriction.until = Some(NOW + Duration::from_secs(60));
    let standing = add(&before, &restriction);
    let mut past = standing.clone();
    past.drop_ended_holds(NOW + Duration::from_secs(61));
    assert_eq!(
        (denied(&standing, "orders"), denied(&past, "orders")),
        (1, 0)
    );
    for view in [past.clone(), add(&standing, &lift(&restriction))] {
        assert!(is_cut(&view, "orders:write", &before));
    }
    past.forget(NOW + LONGEST_LIFETIME);
    assert!(is_cut(&past, "orders:write", &before));
    past.forget(NOW + LONGEST_LIFETIME + MARGIN + Duration::from_secs(1));
    assert!(
        !is_cut(&past, "orders:write", &before),
        "nothing it ended can live"
    );
}

#[test]
fn a_snapshot_keeps_what_stands_and_what_it_ended() {
    let before = View::origin();
    let lifted = restrict(true);
    let view = add(&add(&before, &restrict(false)), &lifted);
    let view = add(&view, &lift(&lifted));
    let again = snapshot::through_the_store(&view);
    assert_eq!(denied(&again, "orders"), 1);
    assert!(is_cut(&again, "orders:write", &before));
}

fn short() -> Fence {
    Fence {
        restriction: Some(Restriction {
            denied: Authority(Vec::new()),
            ends_leases: false,
            longest: Some(120),
            approval: false,
        }),
        until: Some(NOW + Duration::from_secs(60)),
        ..fence(FenceKind::Restrict, agent("a"))
    }
}

#[test]
fn an_agent_is_kept_short_until_the_lift_or_the_end_of_it() {
    let on = agent("a");
    let short = short();
    let bytes = rmp_serde::to_vec(&short).unwrap();
    assert_eq!(rmp_serde::from_slice::<Fence>(&bytes).unwrap(), short);
    let seen = |view: &View| -> Vec<_> {
        let all = view.shortened();
        all.map(|(fence, longest)| (fence.dimension.clone(), longest.as_secs()))
            .collect()
    };
    let before = View::origin();
    let view = add(&add(&before, &restrict(true)), &short);
    assert_eq!(seen(&view), [(on.clone(), 120)]);
    assert_eq!(
        seen(&snapshot::through_the_store(&view)),
        [(on.clone(), 120)]
    );
    assert_eq!(view.held(&[on.hash()]), None, "it is no hold");
    assert_eq!(view.ended_by(&[on.hash()], before.position()), None);
    assert!(seen(&add(&view, &lift(&short))).is_empty());
    let mut later = view;
    later.drop_ended_holds(NOW + Duration::from_secs(59));
    assert_eq!(seen(&later).len(), 1);
    later.drop_ended_holds(NOW + Duration::from_secs(61));
    assert!(seen(&later).is_empty());
}

#[test]
fn people_are_asked_about_an_agent_until_the_lift_and_again_by_a_snapshot_and_by_the_audits_word() {
    let asks = Fence {
        restriction: Some(Restriction {
            denied: Authority(Vec::new()),
            ends_leases: false,
            longest: None,
            approval: true,
        }),
        ..short()
    };
    let before = View::origin();
    let view = add(&before, &asks);
    assert_eq!(
        view.needs_approval("a").map(|fence| fence.id),
        Some(asks.id)
    );
    assert!(view.needs_approval("b").is_none());
    assert_eq!(
        view.shortened().count(),
        0,
        "its lifetimes are as they were"
    );
    assert!(
        snapshot::through_the_store(&view)
            .needs_approval("a")
            .is_some()
    );
    assert!(add(&view, &lift(&asks)).needs_approval("a").is_none());
    assert!(add(&before, &short()).needs_approval("a").is_none());
    let entry = audited(&asks, &By::Rule("response/wanders".to_owned()));
    let raised = again(from_ref(&entry), NOW);
    assert_eq!(raised[0].restriction, asks.restriction);
}

#[test]
fn an_agent_is_kept_short_again_by_the_audits_word() {
    let short = short();
    let entry = audited(&short, &By::Rule("response/wanders".to_owned()));
    let raised = again(from_ref(&entry), NOW);
    assert_eq!(raised.len(), 1);
    assert_eq!(raised[0].dimension, short.dimension);
    assert_eq!(raised[0].restriction, short.restriction);
    assert!(again(from_ref(&entry), NOW + Duration::from_secs(61)).is_empty());
    let lifted = audited(&lift(&short), &By::Operator);
    assert!(again(&[entry, lifted], NOW).is_empty());
}
