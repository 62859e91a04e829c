//! Lists of permissions against brute force: A on x beside B on y is not A on y, in any vocabulary.

use super::*;
use std::collections::BTreeSet;

/// Two actions and two locations, none of which holds another.
const WORLDS: [(Vocabulary, [&str; 2], [&str; 2]); 5] = [
    (
        Vocabulary::Aws,
        ["s3:GetObject", "s3:PutObject"],
        ["arn:aws:s3:::a", "arn:aws:s3:::b"],
    ),
    (
        Vocabulary::Scopes,
        ["read", "write"],
        ["https://a.example/", "https://b.example/"],
    ),
    (
        Vocabulary::Sql,
        ["select", "insert"],
        ["public.a", "public.b"],
    ),
    (
        Vocabulary::Github,
        ["contents:read", "issues:read"],
        ["acme/a", "acme/b"],
    ),
    (
        Vocabulary::Kubernetes,
        ["get", "patch"],
        ["shop/pods", "shop/secrets"],
    ),
];

/// Every list of at most two permissions, and the pairs that it stands for.
fn lists(
    actions: [&'static str; 2],
    locations: [&'static str; 2],
) -> Vec<(Authority, BTreeSet<(&'static str, &'static str)>)> {
    let some = |both: [&'static str; 2]| vec![vec![both[0]], vec![both[1]], both.to_vec()];
    let mut single = Vec::new();
    for actions in some(actions) {
        for locations in some(locations) {
            let pairs = actions
                .iter()
                .flat_map(|action| locations.iter().map(move |location| (*action, *location)));
            let pairs: BTreeSet<_> = pairs.collect();
            let permission = authority(&[(&actions, &locations)]).0.remove(0);
            single.push((permission, pairs));
        }
    }
    let mut all: Vec<_> = single
        .iter()
        .map(|(one, pairs)| (Authority(vec![one.clone()]), pairs.clone()))
        .collect();
    for (one, pairs) in &single {
        for (other, more) in &single {
            let both = pairs | more;
            all.push((Authority(vec![one.clone(), other.clone()]), both));
        }
    }
    all
}

#[test]
fn a_list_covers_and_meets_exactly_the_pairs_of_its_permissions() {
    for (vocabulary, actions, locations) in WORLDS {
        let all = lists(actions, locations);
        assert_eq!(all.len(), 9 + 81);
        for (wide, has) in &all {
            for (narrow, asks) in &all {
                let what = || format!("{vocabulary:?}: {wide:?} {narrow:?}");
                let covers = vocabulary.covers(wide, narrow).unwrap();
                assert_eq!(covers, asks.is_subset(has), "{}", what());
                let overlap = vocabulary.overlap(wide, narrow).unwrap();
                assert_eq!(overlap, !asks.is_disjoint(has), "{}", what());
            }
        }
    }
}
