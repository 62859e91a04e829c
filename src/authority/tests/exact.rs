//! Containment of every vocabulary against brute force: each pattern is written out as all that it
//! stands for in a small world, which also holds things that no pattern names.

use super::*;
use std::collections::BTreeSet;

/// Patterns, and what each of them stands for.
type Language = Vec<(String, BTreeSet<String>)>;

fn language(
    patterns: &[String],
    world: &[String],
    stands: impl Fn(&str, &str) -> bool,
) -> Language {
    let meaning = |pattern: &String| {
        let words = world.iter().filter(|word| stands(pattern, word));
        (pattern.clone(), words.cloned().collect())
    };
    patterns.iter().map(meaning).collect()
}

fn glob(pattern: &str, word: &str) -> bool {
    matches(pattern.as_bytes(), word.as_bytes())
}

/// One action on one location: covered exactly if both are, and overlapping exactly if both do.
#[track_caller]
fn is_exact(vocabulary: Vocabulary, actions: &Language, locations: &Language) {
    let one = |action: &str, location: &str| authority(&[(&[action], &[location])]);
    for (wide_action, all_actions) in actions {
        for (asked_action, some_actions) in actions {
            for (wide, all) in locations {
                for (asked, some) in locations {
                    let (ceiling, asking) = (one(wide_action, wide), one(asked_action, asked));
                    let covered = some_actions.is_subset(all_actions) && some.is_subset(all);
                    assert_eq!(
                        vocabulary.covers(&ceiling, &asking),
                        Ok(covered),
                        "{asked_action} on {asked} under {wide_action} on {wide}"
                    );
                    let meets = !some_actions.is_disjoint(all_actions) && !some.is_disjoint(all);
                    assert_eq!(
                        vocabulary.overlap(&ceiling, &asking),
                        Ok(meets),
                        "{asked_action} on {asked} meets {wide_action} on {wide}"
                    );
                }
            }
        }
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn github_permissions_are_compared_by_name_and_level() {
    let levels = ["read", "write", "admin"];
    let rank = |level: &str| levels.iter().position(|known| *known == level).unwrap();
    let with_levels = |names: &[&str]| -> Vec<String> {
        let all = names
            .iter()
            .flat_map(|name| levels.map(|level| format!("{name}:{level}")));
        all.collect()
    };
    // `c` is named by no pattern.
    let actions = language(
        &with_levels(&["a", "b", "*"]),
        &with_levels(&["a", "b", "c"]),
        |pattern, word| {
            let (own, level) = pattern.split_once(':').unwrap();
            let (name, asked) = word.split_once(':').unwrap();
            (own == "*" || own == name) && rank(level) >= rank(asked)
        },
    );
    let repositories = |alphabet: &[char], longest| -> Vec<String> {
        let names = words(alphabet, longest)
            .into_iter()
            .filter(|name| !name.is_empty());
        names
            .flat_map(|name| ["o", "p"].map(|owner| format!("{owner}/{name}")))
            .collect()
    };
    let mut patterns = repositories(&['a', '*'], 2);
    patterns.push("*".to_owned());
    let world: Vec<_> = repositories(&['a', 'z'], 4)
        .into_iter()
        .chain(texts(&["q/a"]))
        .collect();
    let locations = language(&patterns, &world, |pattern, word| {
        pattern == "*" || glob(pattern, word)
    });
    is_exact(Vocabulary::Github, &actions, &locations);
}

#[test]
fn kubernetes_verbs_and_resources_are_compared_as_rbac_reads_them() {
    let verbs = language(
        &texts(&["get", "list", "*"]),
        &texts(&["get", "list", "drain"]),
        |pattern, word| pattern == "*" || pattern == word,
    );
    let within = |namespaces: &[&str], resources: &[&str]| -> Vec<String> {
        let all = namespaces
            .iter()
            .flat_map(|one| resources.iter().map(move |two| format!("{one}/{two}")));
        all.collect()
    };
    let resources = ["pods", "pods/log", "jobs.batch", "*/log", "*"];
    let mut patterns = within(&["a", "b", "*"], &resources);
    patterns.push("*".to_owned());
    let things = [
        "pods",
        "pods/log",
        "pods/exec",
        "jobs.batch",
        "jobs.batch/log",
        "nodes.metrics",
        "nodes.metrics/log",
    ];
    // What is in no namespace is everywhere, too.
    let mut world = within(&["a", "b", "c"], &things);
    world.push("elsewhere".to_owned());
    let locations = language(&patterns, &world, |pattern, word| {
        let Some((namespace, resource)) = pattern.split_once('/') else {
            return true;
        };
        let Some((own, thing)) = word.split_once('/') else {
            return false;
        };
        let fits = match resource.split_once('/') {
            _ if resource == "*" => true,
            Some(("*", sub)) => thing.split_once('/').is_some_and(|(_, own)| own == sub),
            _ => resource == thing,
        };
        (namespace == "*" || namespace == own) && fits
    });
    is_exact(Vocabulary::Kubernetes, &verbs, &locations);
}

#[test]
fn sql_privileges_are_compared_by_name_and_tables_by_both_parts() {
    let privileges = language(
        &texts(&["select", "insert", "*"]),
        &texts(&["select", "insert", "other"]),
        |pattern, word| pattern == "*" || pattern == word,
    );
    let tables = |alphabet: &[char], longest| -> Vec<String> {
        let names: Vec<_> = words(alphabet, longest)
            .into_iter()
            .filter(|name| !name.is_empty())
            .collect();
        names
            .iter()
            .flat_map(|schema| names.iter().map(move |name| format!("{schema}.{name}")))
            .collect()
    };
    let mut patterns = tables(&['a', '*'], 2);
    patterns.push("*".to_owned());
    // What is no table is everywhere, too.
    let mut world = tables(&['a', 'z'], 3);
    world.push("elsewhere".to_owned());
    let locations = language(&patterns, &world, |pattern, word| {
        let Some((schema, name)) = pattern.split_once('.') else {
            return true;
        };
        let Some((own_schema, own)) = word.split_once('.') else {
            return false;
        };
        glob(schema, own_schema) && glob(name, own)
    });
    is_exact(Vocabulary::Sql, &privileges, &locations);
}

#[test]
fn scopes_and_resources_are_compared_as_patterns_within_their_bounds() {
    let named = |alphabet: &[char], longest| {
        words(alphabet, longest)
            .into_iter()
            .filter(|w| !w.is_empty())
    };
    let patterns: Vec<_> = named(&['a', '*'], 2).collect();
    let scopes = language(&patterns, &named(&['a', 'z'], 4).collect::<Vec<_>>(), glob);
    let below = |word: String| ["https://h/", "https://i/"].map(|origin| format!("{origin}{word}"));
    let mut patterns: Vec<_> = words(&['a', '*', '/'], 2)
        .into_iter()
        .flat_map(below)
        .collect();
    patterns.push("*".to_owned());
    let mut world: Vec<_> = words(&['a', 'z', '/'], 4)
        .into_iter()
        .flat_map(below)
        .collect();
    world.push("https://j/".to_owned());
    let resources = language(&patterns, &world, |pattern, word| {
        let host = |text: &str| text.split('/').nth(2).map(str::to_owned);
        pattern == "*" || (host(pattern) == host(word) && glob(pattern, word))
    });
    is_exact(Vocabulary::Scopes, &scopes, &resources);
}

#[test]
fn iam_actions_are_compared_without_case() {
    let actions = |alphabet: &[char], longest| -> Vec<String> {
        let names = words(alphabet, longest)
            .into_iter()
            .filter(|name| !name.is_empty());
        names
            .flat_map(|name| ["s", "t"].map(|service| format!("{service}:{name}")))
            .collect()
    };
    let mut patterns = actions(&['a', 'B', '*'], 2);
    patterns.push("*".to_owned());
    let mut world = actions(&['a', 'b', 'z'], 3);
    world.push("u:a".to_owned());
    let actions = language(&patterns, &world, |pattern, word| {
        glob(&pattern.to_lowercase(), word)
    });
    let everywhere = vec![("*".to_owned(), BTreeSet::from(["x".to_owned()]))];
    is_exact(Vocabulary::Aws, &actions, &everywhere);
}

/// A `*` of a ceiling stays in its field. One that is asked for may run across `:` when IAM reads it, so it
/// is covered only where the field is left open: never more than field by field, and no less otherwise.
#[test]
fn arns_are_compared_field_by_field_and_an_asked_star_needs_an_open_field() {
    let arns = |fields: &[&str], resources: &[String]| -> Vec<String> {
        let mut all = Vec::new();
        for region in fields {
            for account in fields {
                for resource in resources {
                    all.push(format!("arn:aws:ecs:{region}:{account}:{resource}"));
                }
            }
        }
        all
    };
    let named: Vec<_> = words(&['a', ':', '*'], 2)
        .into_iter()
        .filter(|w| !w.is_empty())
        .collect();
    let things: Vec<_> = words(&['a', ':', 'z'], 3)
        .into_iter()
        .filter(|w| !w.is_empty())
        .collect();
    let patterns = arns(&["1", "1*", "*"], &named);
    let world = arns(&["", "1", "12", "2"], &things);
    let fields = |text: &str| -> Vec<String> { text.splitn(6, ':').map(str::to_owned).collect() };
    let language = language(&patterns, &world, |pattern, word| {
        fields(pattern)
            .iter()
            .zip(fields(word))
            .all(|(own, field)| glob(own, &field))
    });
    for (wide, all) in &language {
        for (asked, some) in &language {
            let one = |location: &str| authority(&[(&["ecs:List"], &[location])]);
            let covered = Vocabulary::Aws.covers(&one(wide), &one(asked)).unwrap();
            let contained = some.is_subset(all);
            assert!(!covered || contained, "{asked} under {wide}");
            let open = fields(wide).into_iter().zip(fields(asked)).take(5);
            let needs_open = open
                .into_iter()
                .any(|(own, asked)| asked.contains('*') && own != "*");
            assert_eq!(covered, contained && !needs_open, "{asked} under {wide}");
        }
    }
}

#[test]
fn what_github_and_kubernetes_do_not_name_so_is_refused() {
    for (action, location) in [
        ("contents", "acme/shop"),
        ("contents:maintain", "acme/shop"),
        ("Contents:read", "acme/shop"),
        ("con*:read", "acme/shop"),
        (":read", "acme/shop"),
        ("contents:read", "acme"),
        ("contents:read", "acme/"),
        ("contents:read", "a*/shop"),
        ("contents:read", "acme/shop/x"),
        ("contents:read", "acme/.."),
        ("contents:read", "acme/sh op"),
        ("contents:read", "acme/sh%2e"),
    ] {
        assert!(
            undecidable(Vocabulary::Github, action, &[location]),
            "{action} {location}"
        );
    }
    let (upper, lower) = (
        authority(&[(&["contents:read"], &["Acme/Shop"])]),
        authority(&[(&["contents:read"], &["acme/shop"])]),
    );
    assert_eq!(Vocabulary::Github.covers(&upper, &lower), Ok(true));
    for (verb, location) in [
        ("Get", "shop/pods"),
        ("ge*", "shop/pods"),
        ("", "shop/pods"),
        ("get", "pods"),
        ("get", "shop/po*"),
        ("get", "sh*p/pods"),
        ("get", "shop/pods/log/x"),
        ("get", "shop/pods/*"),
        ("get", "shop/pods/"),
        ("get", "/pods"),
        ("get", "shop/Pods"),
        ("get", "shop/pods."),
        ("get", "-shop/pods"),
    ] {
        assert!(
            undecidable(Vocabulary::Kubernetes, verb, &[location]),
            "{verb} {location}"
        );
    }
}
