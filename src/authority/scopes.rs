//! OAuth scopes (RFC 6749 section 3.3) and resource URIs (RFC 8707 section 2).
//!
//! Nothing is normalised: two spellings of one resource are two resources, and a spelling that
//! someone else might normalise into another place is refused. `*` stands for any run of
//! characters within a scope, and within the path of a URI.

use super::compare::Terms;
use super::glob;

pub(super) enum Scopes {}

pub(super) struct Uri {
    /// `https://host:port`; of a URI without authority (`urn:...`), all of it.
    origin: String,
    path: String,
    query: Option<String>,
}

impl Terms for Scopes {
    type Action = String;
    type Location = Uri;
    const NEEDS_LOCATION: bool = false;

    fn action(text: &str) -> Result<String, &'static str> {
        let fits = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
        if text.is_empty() || !text.chars().all(fits) {
            return Err("a scope is printable ASCII without spaces, `\"` and `\\`");
        }
        Ok(glob::without_double_stars(text))
    }

    fn location(text: &str) -> Result<Uri, &'static str> {
        let fits = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}".contains(c);
        if !text.chars().all(fits) {
            return Err("a resource is a URI: printable ASCII, everything else %-encoded");
        }
        if text.contains('#') {
            return Err("a resource has no fragment");
        }
        check_escapes(text)?;
        let (scheme, rest) = text
            .split_once(':')
            .ok_or("a resource is an absolute URI, e.g. `https://api.example/orders`")?;
        let scheme_fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            || !scheme.chars().all(scheme_fits)
        {
            return Err("a resource is an absolute URI, e.g. `https://api.example/orders`");
        }
        let Some(rest) = rest.strip_prefix("//") else {
            return without_authority(text, rest);
        };
        let (hierarchy, query) = match rest.split_once('?') {
            Some((hierarchy, query)) => (hierarchy, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = match hierarchy.split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (hierarchy, String::new()),
        };
        if authority.is_empty() || authority.contains('@') {
            return Err("a resource names a host, and no user");
        }
        if authority.contains('*') || query.is_some_and(|query| query.contains('*')) {
            return Err("`*` may stand in the path of a resource only");
        }
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err("a resource has no `.` and `..` in its path");
        }
        Ok(Uri {
            origin: format!("{scheme}://{authority}"),
            path: glob::without_double_stars(&path),
            query: query.map(str::to_owned),
        })
    }

    fn action_covers(ceiling: &String, asked: &String) -> bool {
        glob::covers(ceiling, asked)
    }

    fn location_covers(ceiling: &Uri, asked: &Uri) -> bool {
        ceiling.origin == asked.origin
            && ceiling.query == asked.query
            && glob::covers(&ceiling.path, &asked.path)
    }

    fn actions_overlap(one: &String, other: &String) -> bool {
        glob::overlap(one, other)
    }

    fn locations_overlap(one: &Uri, other: &Uri) -> bool {
        one.origin == other.origin
            && one.query == other.query
            && glob::overlap(&one.path, &other.path)
    }
}

fn without_authority(text: &str, rest: &str) -> Result<Uri, &'static str> {
    if rest.is_empty() || rest.contains('*') {
        return Err("a resource without `//` is compared as it is: no `*`, and not empty");
    }
    Ok(Uri {
        origin: text.to_owned(),
        path: String::new(),
        query: None,
    })
}

// SECURITY: an encoded dot or slash is text to us and a way out of the path to others.
fn check_escapes(text: &str) -> Result<(), &'static str> {
    for escape in text.split('%').skip(1) {
        let mut digits = escape.chars();
        let pair = (digits.next(), digits.next());
        let (Some(high), Some(low)) = pair else {
            return Err("`%` is followed by two hexadecimal digits");
        };
        if !high.is_ascii_hexdigit() || !low.is_ascii_hexdigit() {
            return Err("`%` is followed by two hexadecimal digits");
        }
        match (high, low.to_ascii_lowercase()) {
            ('2', 'e' | 'f') | ('5', 'c') => {
                return Err("a resource does not encode `.`, `/` or `\\`");
            }
            ('0' | '1', _) | ('7', 'f') => return Err("a resource does not encode controls"),
            _ => {}
        }
    }
    Ok(())
}
