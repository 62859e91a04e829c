//! Patterns of one kind only: `*` matches any run of characters, everything else matches itself.

/// Whether everything that `asked` matches is matched by `ceiling`.
///
/// Exact. Read `asked` as a word in which `*` is one more letter that only a `*` of the ceiling
/// can take up. If the ceiling matches that word, every word that `asked` stands for puts some run
/// where a `*` of the ceiling was, so it is matched as well. If not, put a letter that the ceiling
/// does not use in the place of each `*` of `asked`: that word is asked for and not matched.
pub(crate) fn covers(ceiling: &str, asked: &str) -> bool {
    let (ceiling, asked) = (ceiling.as_bytes(), asked.as_bytes());
    let (mut at, mut read) = (0, 0);
    // The last `*` of the ceiling, and how far it has eaten.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&letter) = asked.get(read) {
        match ceiling.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            // INVARIANT: a `*` that was asked is never matched letter by letter: the arm above
            // takes every `*` of the ceiling.
            Some(&own) if own == letter => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((place, eaten)) = star else {
                    return false;
                };
                star = Some((place, eaten + 1));
                at = place + 1;
                read = eaten + 1;
            }
        }
    }
    ceiling.iter().skip(at).all(|&rest| rest == b'*')
}

/// Whether some word is matched by both.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let other = other.as_bytes();
    // `reached[n]`: what was read of `one`, and the first `n` bytes of `other`, can be one word.
    let mut reached = vec![true];
    reached.extend(other.iter().scan(true, |stars, &byte| {
        *stars &= byte == b'*';
        Some(*stars)
    }));
    for &left in one.as_bytes() {
        let mut before = left == b'*' && reached.first().copied().unwrap_or(false);
        let mut next = vec![before];
        for (&right, pair) in other.iter().zip(reached.windows(2)) {
            let [diagonal, above] = pair else { continue };
            before = if left == b'*' || right == b'*' {
                *above || before
            } else {
                left == right && *diagonal
            };
            next.push(before);
        }
        reached = next;
    }
    reached.last().copied().unwrap_or(false)
}

/// `a**b` is `a*b`.
pub(crate) fn without_double_stars(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    for letter in pattern.chars() {
        if letter != '*' || !text.ends_with('*') {
            text.push(letter);
        }
    }
    text
}
