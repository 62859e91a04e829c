//! Claims by name. A name is a dotted path, and a claim's own name may contain dots.

use serde_json::{Map, Value};

/// The claim at `path`: the longest key that is a prefix of it is tried first, at every level.
/// `kubernetes.io.namespace` finds `{"kubernetes.io": {"namespace": ...}}`, and
/// `oidc.circleci.com/project-id` the claim of exactly that name.
pub fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| {
        let (key, rest) = path.split_at_checked(dot)?;
        find(claims.get(key)?.as_object()?, rest.strip_prefix('.')?)
    })
}

/// The text by which two scalar values are compared, so that an id written as a number in the
/// configuration equals the same id sent as a string. Objects, lists, fractions and null equal
/// nothing.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// Whether two scalar values are the same (see [`text`]).
pub fn same(one: &Value, other: &Value) -> bool {
    text(one).is_some_and(|one| text(other) == Some(one))
}

/// A scalar or a list of scalars: what a fact can be.
pub fn is_fact(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(|item| text(item).is_some()),
        scalar => text(scalar).is_some(),
    }
}

/// Whether two facts say the same: scalars as [`same`] has it, lists member by member.
pub fn agree(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (one, other) => same(one, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_path_walks_into_objects_and_over_dots_in_names() {
        let claims = map(json!({
            "kubernetes.io": {"namespace": "shop", "pod": {"uid": "p-1"}},
            "oidc.circleci.com/project-id": "c-1",
            "google": {"compute_engine": {"project_id": "g-1"}},
            "plain": "x",
        }));
        for (path, expected) in [
            ("kubernetes.io.namespace", Some("shop")),
            ("kubernetes.io.pod.uid", Some("p-1")),
            ("oidc.circleci.com/project-id", Some("c-1")),
            ("google.compute_engine.project_id", Some("g-1")),
            ("plain", Some("x")),
            ("plain.more", None),
            ("kubernetes", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(
                find(&claims, path).and_then(Value::as_str),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn the_longest_name_wins_and_a_dead_end_is_walked_back_from() {
        let claims = map(json!({"a.b": {"c": 1}, "a": {"b": {"c": 2, "d": 3}}}));
        assert_eq!(find(&claims, "a.b.c"), Some(&json!(1)));
        assert_eq!(find(&claims, "a.b.d"), Some(&json!(3)));
    }

    #[test]
    fn an_id_is_the_same_as_a_number_and_as_text() {
        assert!(same(&json!(1234), &json!("1234")));
        assert!(same(&json!("true"), &json!(true)));
        assert!(!same(&json!(1234), &json!("01234")));
        assert!(!same(&json!(1.0), &json!("1.0")));
        assert!(!same(&Value::Null, &Value::Null));
        assert!(!same(&json!(["a"]), &json!(["a"])));
    }

    #[test]
    fn facts_agree_as_scalars_or_member_by_member() {
        assert!(agree(&json!(1234), &json!("1234")));
        assert!(agree(&json!(["a", 1]), &json!(["a", "1"])));
        assert!(!agree(&json!(["a"]), &json!(["a", "b"])));
        assert!(!agree(&json!(["a"]), &json!("a")));
        assert!(!agree(&json!({}), &json!({})));
        assert!(is_fact(&json!(["a", 1, true])));
        for no_fact in [json!(null), json!({}), json!(1.5), json!([["a"]])] {
            assert!(!is_fact(&no_fact), "{no_fact}");
        }
    }

    proptest! {
        #[test]
        fn a_path_of_plain_names_finds_what_was_put_there(names in prop::collection::vec("[a-z]{1,6}", 1..6)) {
            let value = names.iter().rev().fold(json!("here"), |inner, name| json!({ name: inner }));
            let found = find(value.as_object().unwrap(), &names.join("."));
            prop_assert_eq!(found, Some(&json!("here")));
        }
    }
}
