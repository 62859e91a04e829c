//! A URL with facts in its path: `https://api.github.com/repos/{+pipeline.repository}/actions/runs/{pipeline.run_id}`.
//!
//! `{fact}` is one segment of the path, `{+fact}` one or more (the names are RFC 6570's; a `/` is all that the second
//! lets through). Nothing else of a URL can be a fact: not the host, and there is no query.

use crate::identity::Facts;
use serde_json::Value;
use std::fmt::Write as _;

/// Of a value: longer than any repository's name.
const MOST_BYTES: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Said(String),
    Fact { name: String, several: bool },
}

impl Template {
    /// `Err`: what is wrong with it. Whether the rest of it is a URL, its [`Self::sample`] tells.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let after = text.split_once("://").map(|(_, after)| after);
        let after = after.ok_or("it is no URL")?;
        let (host, path) = after.split_once('/').unwrap_or((after, ""));
        // SECURITY: who is asked is the operator's word alone.
        if host.is_empty() || host.contains(['{', '}', '\\', '@']) {
            return Err("a fact stands in the path and nowhere else");
        }
        let origin = text.strip_suffix(path).unwrap_or(text);
        let mut segments = vec![Segment::Said(origin.trim_end_matches('/').to_owned())];
        for segment in path.split('/') {
            segments.push(one(segment)?);
        }
        Ok(Self {
            text: text.to_owned(),
            segments,
        })
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The facts that it needs.
    pub fn facts(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Fact { name, .. } => Some(name.as_str()),
            Segment::Said(_) => None,
        })
    }

    /// With `x` for every fact.
    pub fn sample(&self) -> String {
        let each = self.segments.iter().map(|segment| match segment {
            Segment::Said(text) => text.as_str(),
            Segment::Fact { .. } => "x",
        });
        each.collect::<Vec<_>>().join("/")
    }

    /// `Err`: the fact that is missing, or cannot stand in a path.
    pub fn expand(&self, facts: &Facts) -> Result<String, String> {
        let mut all = Vec::new();
        for segment in &self.segments {
            let (name, several) = match segment {
                Segment::Said(text) => {
                    all.push(text.clone());
                    continue;
                }
                Segment::Fact { name, several } => (name, *several),
            };
            let value = facts.get(name).and_then(plain).ok_or(name)?;
            if value.len() > MOST_BYTES {
                return Err(name.clone());
            }
            let parts = match several {
                true => value.split('/').collect(),
                false => vec![value.as_str()],
            };
            for part in parts {
                // SECURITY: a dot segment would be another path, also where it is percent-encoded.
                if part.is_empty() || [".", ".."].contains(&part) {
                    return Err(name.clone());
                }
                all.push(encoded(part));
            }
        }
        Ok(all.join("/"))
    }
}

fn one(segment: &str) -> Result<Segment, &'static str> {
    let inner = segment.strip_prefix('{');
    let inner = inner.and_then(|inner| inner.strip_suffix('}'));
    let Some(inner) = inner else {
        return match segment.contains(['{', '}']) {
            true => Err("a fact is a whole segment of the path: `/{pipeline.run_id}/`"),
            false => Ok(Segment::Said(segment.to_owned())),
        };
    };
    let name = inner.strip_prefix('+').unwrap_or(inner);
    let fits = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    if !name.contains('.') || !name.chars().all(fits) {
        return Err("between the braces stands the name of a fact, such as `pipeline.run_id`");
    }
    Ok(Segment::Fact {
        name: name.to_owned(),
        several: inner.starts_with('+'),
    })
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// RFC 3986 section 2.3: all but the unreserved characters.
fn encoded(part: &str) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const RUN: &str =
        "https://api.github.com/repos/{+pipeline.repository}/actions/runs/{pipeline.run_id}";

    fn facts(repository: &str, run: Value) -> Facts {
        let pairs = json!({ "pipeline.repository": repository, "pipeline.run_id": run });
        pairs.as_object().unwrap().clone().into_iter().collect()
    }

    #[test]
    fn facts_stand_in_the_path_as_they_are_proved() {
        let template = Template::parse(RUN).unwrap();
        assert_eq!(
            template.facts().collect::<Vec<_>>(),
            ["pipeline.repository", "pipeline.run_id"]
        );
        assert_eq!(
            template.sample(),
            "https://api.github.com/repos/x/actions/runs/x"
        );
        let good = "https://api.github.com/repos/acme/checkout/actions/runs/77";
        for run in [json!("77"), json!(77)] {
            assert_eq!(template.expand(&facts("acme/checkout", run)).unwrap(), good);
        }
        let odd = template
            .expand(&facts("acme/check out?#%2e", json!("7/7")))
            .unwrap();
        assert_eq!(
            odd,
            "https://api.github.com/repos/acme/check%20out%3F%23%252e/actions/runs/7%2F7"
        );
    }

    #[test]
    fn what_would_be_another_path_is_not_asked_for() {
        let template = Template::parse(RUN).unwrap();
        for odd in ["", ".", "..", "acme/..", "acme//x", "/acme", "acme/"] {
            let missing = template.expand(&facts(odd, json!(7))).unwrap_err();
            assert_eq!(missing, "pipeline.repository", "{odd}");
        }
        for odd in [
            json!(""),
            json!(".."),
            json!(true),
            Value::Null,
            json!("x".repeat(513)),
        ] {
            let missing = template.expand(&facts("a/b", odd.clone())).unwrap_err();
            assert_eq!(missing, "pipeline.run_id", "{odd}");
        }
    }

    #[test]
    fn a_fact_is_a_whole_segment_of_the_path() {
        for wrong in [
            "https://{pipeline.host}/runs",
            "https://api.{pipeline.host}/runs",
            "https://{pipeline.host}",
            "https:///{pipeline.run_id}",
            "https:/{pipeline.run_id}",
            "{pipeline.url}",
            "https://api.example/runs-{pipeline.run_id}",
            "https://api.example/{pipeline.run_id}.json",
            "https://api.example/{pipeline.run_id",
            "https://api.example/{run_id}",
            "https://api.example/{pipeline.run id}",
            "https://api.example/{}",
            "https://x@{pipeline.host}/y",
        ] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Template::parse("https://api.example").is_ok());
    }

    proptest! {
        /// Whatever is proved, who is asked and which path is asked for is what the operator wrote.
        #[test]
        fn no_fact_leaves_its_place(repository in ".{0,40}", run in ".{0,40}") {
            let template = Template::parse(RUN).unwrap();
            let Ok(url) = template.expand(&facts(&repository, json!(run))) else {
                return Ok(());
            };
            let parsed = url::Url::parse(&url).unwrap();
            prop_assert_eq!(parsed.as_str(), &url, "nothing is left to be normalised");
            prop_assert_eq!(parsed.host_str(), Some("api.github.com"));
            prop_assert!(parsed.query().is_none() && parsed.fragment().is_none());
            let segments: Vec<_> = parsed.path_segments().unwrap().collect();
            let length = repository.split('/').count();
            prop_assert_eq!(segments.len(), length + 4);
            prop_assert_eq!(segments[0], "repos");
            prop_assert_eq!(&segments[length + 1..length + 3], ["actions", "runs"]);
        }
    }
}
