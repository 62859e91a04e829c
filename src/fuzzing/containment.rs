//! What contains what: the comparison against a reader that is too slow and too simple to be wrong.

use crate::authority::{Authority, AuthorizationDetail, Vocabulary, glob};
use crate::connectors::aws_pattern;

/// Two or three lists of `authorization_details`, one a line: each is read without loss, and
/// containment is what a partial order is.
pub fn authorization_details(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut authorities = Vec::new();
    for line in text.lines().take(3) {
        let Ok(details) = AuthorizationDetail::parse_list(line) else {
            return;
        };
        let written = serde_json::to_string(&details).unwrap_or_default();
        assert!(
            AuthorizationDetail::parse_list(&written).as_ref() == Ok(&details),
            "it does not survive being written"
        );
        authorities.push(Authority::from_details(&details));
    }
    for vocabulary in vocabularies() {
        for one in &authorities {
            check_alone(vocabulary, one);
            for other in &authorities {
                check_pair(vocabulary, one, other);
                for third in &authorities {
                    let covers = |a, b| vocabulary.covers(a, b) == Ok(true);
                    if covers(one, other) && covers(other, third) {
                        assert!(covers(one, third), "containment is not transitive");
                    }
                }
            }
        }
    }
}

/// A new one does not compile until it is in the row.
fn vocabularies() -> impl Iterator<Item = Vocabulary> {
    std::iter::successors(Some(Vocabulary::Aws), |last| match last {
        Vocabulary::Aws => Some(Vocabulary::Scopes),
        Vocabulary::Scopes => Some(Vocabulary::Sql),
        Vocabulary::Sql => Some(Vocabulary::Github),
        Vocabulary::Github => Some(Vocabulary::Kubernetes),
        Vocabulary::Kubernetes => None,
    })
}

fn check_alone(vocabulary: Vocabulary, authority: &Authority) {
    let comparable = vocabulary.check(authority).is_ok();
    let own = vocabulary.covers(authority, authority);
    assert!(own.is_ok() == comparable);
    // An ARN with a field like `e*` covers only what has no `*` there: docs of the vocabulary.
    let half_open = vocabulary == Vocabulary::Aws
        && authority
            .0
            .iter()
            .flat_map(|own| &own.locations)
            .any(|arn| {
                let mut fields = arn.split(':').take(5);
                fields.any(|field| field.contains('*') && field.bytes().any(|byte| byte != b'*'))
            });
    if comparable && !half_open {
        assert!(own == Ok(true), "it does not contain itself");
    }
    if comparable && !authority.is_empty() {
        assert!(vocabulary.overlap(authority, authority) == Ok(true));
    }
    // Narrowing to each of its own actions adds nothing and leaves something.
    for permission in &authority.0 {
        let Ok(Ok(narrow)) = vocabulary.narrow(authority, &permission.actions) else {
            assert!(!comparable, "an action of its own is outside of it");
            continue;
        };
        assert!(!narrow.is_empty());
        assert!(half_open || vocabulary.covers(authority, &narrow) == Ok(true));
    }
}

fn check_pair(vocabulary: Vocabulary, one: &Authority, other: &Authority) {
    let covers = vocabulary.covers(one, other);
    let overlap = vocabulary.overlap(one, other);
    assert!(overlap == vocabulary.overlap(other, one) || overlap.is_err());
    assert!(covers.is_ok() == overlap.is_ok());
    if covers == Ok(true) && !other.is_empty() {
        assert!(overlap == Ok(true), "covered, and yet apart");
    }
    let outside = vocabulary.outside(one, other);
    assert!(outside.ok().map(|found| found.is_none()) == covers.ok());
    let asked: Vec<String> = other.0.iter().flat_map(|own| own.actions.clone()).collect();
    if let Ok(Ok(narrow)) = vocabulary.narrow(one, &asked) {
        // Each action that is left is one of those asked for, where the authority had it.
        for permission in &narrow.0 {
            assert!(
                permission
                    .actions
                    .iter()
                    .all(|action| asked.contains(action))
            );
            assert!(
                one.0
                    .iter()
                    .any(|own| own.locations == permission.locations)
            );
        }
    }
}

/// Three words, one a line: a ceiling, what is asked, a text.
pub fn patterns(bytes: &[u8]) {
    const LONGEST: usize = 12;
    const MOST_STARS: usize = 4;
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut words = text.split('\n');
    let mut next = || words.next().unwrap_or_default();
    let (ceiling, asked, word) = (next(), next(), next());
    let bounded = |text: &str| {
        text.len() <= LONGEST && text.bytes().filter(|byte| *byte == b'*').count() <= MOST_STARS
    };
    if ![ceiling, asked, word].into_iter().all(bounded) {
        // Long ones only have to end in time.
        let _ = (glob::covers(ceiling, asked), glob::overlap(ceiling, asked));
        let _ = (
            aws_pattern::covers(ceiling, asked),
            aws_pattern::overlaps(ceiling, asked),
        );
        return;
    }
    for (one, other) in [
        (ceiling, asked),
        (asked, ceiling),
        (ceiling, word),
        (asked, word),
    ] {
        let expected = stands_for_less(one.as_bytes(), other.as_bytes());
        assert!(
            glob::covers(one, other) == expected,
            "{one:?} covers {other:?}"
        );
        assert!(
            aws_pattern::covers(one, other) == expected,
            "{one:?} covers {other:?} in IAM"
        );
        let meet = naive_meet(one.as_bytes(), other.as_bytes());
        assert!(glob::overlap(one, other) == meet, "{one:?} meets {other:?}");
        let (low, other_low) = (one.to_ascii_lowercase(), other.to_ascii_lowercase());
        assert!(
            aws_pattern::covers_ignoring_case(one, other)
                == stands_for_less(low.as_bytes(), other_low.as_bytes())
        );
        assert!(
            aws_pattern::overlaps(one, other) == naive_meet(low.as_bytes(), other_low.as_bytes())
        );
    }
    let single = glob::without_double_stars(ceiling);
    assert!(!single.contains("**") && glob::covers(&single, asked) == glob::covers(ceiling, asked));
}

/// Everything that `asked` could stand for, tried with nothing and with a byte that is no text in
/// the place of each `*`: if one of those is outside, `asked` is; if none is, nothing is.
fn stands_for_less(ceiling: &[u8], asked: &[u8]) -> bool {
    const OTHER: u8 = 0xff;
    let stars = asked.iter().filter(|byte| **byte == b'*').count();
    (0..1_u32 << stars).all(|choice| {
        let mut star = 0;
        let word: Vec<u8> = asked
            .iter()
            .filter_map(|byte| {
                if *byte != b'*' {
                    return Some(*byte);
                }
                star += 1;
                (choice >> (star - 1) & 1 == 1).then_some(OTHER)
            })
            .collect();
        naive_match(ceiling, &word)
    })
}

fn naive_match(pattern: &[u8], word: &[u8]) -> bool {
    match (pattern.split_first(), word.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => naive_match(rest, word),
        (Some((b'*', rest)), Some((_, behind))) => {
            naive_match(rest, word) || naive_match(pattern, behind)
        }
        (Some((own, rest)), Some((letter, behind))) => own == letter && naive_match(rest, behind),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn naive_meet(one: &[u8], other: &[u8]) -> bool {
    match (one.split_first(), other.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => naive_meet(rest, other),
        (None, Some((b'*', rest))) => naive_meet(one, rest),
        (Some((b'*', rest)), Some((_, behind))) => {
            naive_meet(rest, other) || naive_meet(one, behind)
        }
        (Some((_, behind)), Some((b'*', rest))) => {
            naive_meet(one, rest) || naive_meet(behind, other)
        }
        (Some((own, rest)), Some((letter, behind))) => own == letter && naive_meet(rest, behind),
        (Some(_), None) | (None, Some(_)) => false,
    }
}
