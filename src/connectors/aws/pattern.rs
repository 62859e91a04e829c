//! IAM patterns: `*` matches any run of characters, everything else is itself. Actions compare
//! without case, ARNs with it.

/// Whether everything that `narrow` matches, `wide` matches too. Never says so wrongly; may miss a
/// cover that takes two stars to see.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    matches(wide.as_bytes(), narrow.as_bytes(), |a, b| a == b)
}

/// The same for actions.
pub(crate) fn covers_ignoring_case(wide: &str, narrow: &str) -> bool {
    matches(wide.as_bytes(), narrow.as_bytes(), |a, b| {
        a.eq_ignore_ascii_case(&b)
    })
}

/// Whether any action is matched by both.
pub(crate) fn overlaps(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    // One row per suffix of `left`, from the empty one up: can it meet each suffix of `right`?
    let mut row = suffixes_that_can_be_empty(right);
    for (place, letter) in left.iter().enumerate().rev() {
        let rest_is_stars = left.iter().skip(place).all(|b| *b == b'*');
        let mut next = vec![false; right.len() + 1];
        if let Some(last) = next.last_mut() {
            *last = rest_is_stars;
        }
        for (at, other) in right.iter().enumerate().rev() {
            let get = |row: &[bool], at: usize| row.get(at).copied().unwrap_or(false);
            let meets = match (*letter, *other) {
                // A star takes nothing, or one more character of the other side.
                (b'*', _) | (_, b'*') => get(&row, at) || get(&next, at + 1),
                (a, b) => a.eq_ignore_ascii_case(&b) && get(&row, at + 1),
            };
            if let Some(cell) = next.get_mut(at) {
                *cell = meets;
            }
        }
        row = next;
    }
    row.first().copied().unwrap_or(false)
}

/// For each suffix of the pattern, the empty one last: is it all stars?
fn suffixes_that_can_be_empty(pattern: &[u8]) -> Vec<bool> {
    let mut row = vec![true];
    let mut stars = true;
    for letter in pattern.iter().rev() {
        stars = stars && *letter == b'*';
        row.push(stars);
    }
    row.reverse();
    row
}

/// Matches with one step back to the latest star: linear in practice, quadratic at worst.
fn matches(pattern: &[u8], text: &[u8], same: fn(u8, u8) -> bool) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while let Some(letter) = text.get(place) {
        match pattern.get(at) {
            Some(b'*') => {
                back = Some((at, place));
                at += 1;
            }
            Some(wanted) if same(*wanted, *letter) => {
                at += 1;
                place += 1;
            }
            _ => match &mut back {
                Some((star, from)) => {
                    *from += 1;
                    at = *star + 1;
                    place = *from;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_is_any_run_and_nothing_else_is_special() {
        for (wide, narrow, yes) in [
            ("*", "", true),
            ("s3:Get*", "s3:GetObject", true),
            ("s3:Get*", "s3:Get*", true),
            ("s3:*Object", "s3:Get*", false),
            ("s3:G*t*t", "s3:GetObject", true),
            ("s3:G?tObject", "s3:GetObject", false),
            ("arn:*:x", "arn:a:b:x", true),
            ("a", "A", false),
            ("a*", "", false),
        ] {
            assert_eq!(covers(wide, narrow), yes, "{wide} {narrow}");
        }
        assert!(covers_ignoring_case("S3:get*", "s3:GetObject"));
    }

    #[test]
    fn patterns_overlap_when_one_action_is_in_both() {
        for (left, right, yes) in [
            ("s3:*", "s3:GetObject", true),
            ("s3:*Object", "s3:Get*", true),
            ("s3:Get*", "s3:Put*", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("s3:getobject", "s3:GetObject", true),
            ("a*b*c", "*x*", true),
        ] {
            assert_eq!(overlaps(left, right), yes, "{left} {right}");
            assert_eq!(overlaps(right, left), yes, "{right} {left}");
        }
    }

    proptest! {
        #[test]
        fn a_word_in_both_makes_them_overlap(
            left in "[ab*]{0,6}", right in "[ab*]{0,6}", word in "[ab]{0,6}",
        ) {
            if covers(&left, &word) && covers(&right, &word) {
                prop_assert!(overlaps(&left, &right));
            }
        }

        #[test]
        fn what_is_covered_is_matched(
            wide in "[ab*]{0,6}", narrow in "[ab*]{0,6}", word in "[ab]{0,6}",
        ) {
            if covers(&wide, &narrow) && covers(&narrow, &word) {
                prop_assert!(covers(&wide, &word));
            }
        }
    }
}
