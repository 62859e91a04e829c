//! What STS answers, read strictly: an ARN, an id and an account, and what they say together.

use serde_json::{Map, Value};

type Fault = &'static str;

/// The claims of whom this answer of GetCallerIdentity names.
pub(crate) fn claims(xml: &str) -> Result<Map<String, Value>, Fault> {
    let fault = "the answer of STS is not one of GetCallerIdentity";
    // SECURITY: no comments, no CDATA, no entities, no second result: one reading only.
    if xml.contains("<!") || xml.contains('&') {
        return Err(fault);
    }
    let inside = |text, name| element(text, name).ok_or(fault);
    let response = inside(xml, "GetCallerIdentityResponse")?;
    let result = inside(response, "GetCallerIdentityResult")?;
    let principal = Principal::parse(
        inside(result, "Arn")?,
        inside(result, "UserId")?,
        inside(result, "Account")?,
    )?;
    Ok(principal.claims())
}

/// The text within the one element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut starts = xml.match_indices(&open).filter(|(at, _)| {
        let after = xml
            .get(at + open.len()..)
            .and_then(|rest| rest.chars().next());
        matches!(after, Some('>' | ' ' | '\n' | '\r' | '\t'))
    });
    let (start, _) = starts.next()?;
    if starts.next().is_some() || xml.matches(&close).count() != 1 {
        return None;
    }
    let (_, rest) = xml.get(start..)?.split_once('>')?;
    let (text, _) = rest.split_once(&close)?;
    Some(text.trim())
}

#[derive(Debug, PartialEq, Eq)]
struct Principal<'a> {
    partition: &'a str,
    account: &'a str,
    arn: &'a str,
    who: Who<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum Who<'a> {
    /// The role's path is not in a session's ARN, and a name is unique in its account without it.
    Role {
        name: &'a str,
        id: &'a str,
        session: &'a str,
    },
    User {
        name: &'a str,
        id: &'a str,
    },
}

impl<'a> Principal<'a> {
    fn parse(arn: &'a str, user_id: &'a str, account: &'a str) -> Result<Self, Fault> {
        let fault = "STS names a principal that is neither a role's session nor a user";
        let fields: Vec<&str> = arn.split(':').collect();
        let ["arn", partition, service, "", owner, resource] = fields.as_slice() else {
            return Err(fault);
        };
        let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        if !is_account || *owner != account || !partition.starts_with("aws") {
            return Err(fault);
        }
        let parts: Vec<&str> = resource.split('/').collect();
        let who = match (*service, parts.as_slice()) {
            ("sts", ["assumed-role", name, session]) => {
                let (id, same) = user_id.split_once(':').ok_or(fault)?;
                if same != *session || !is_id(id, "AROA") || !is_name(name) || !is_name(session) {
                    return Err(fault);
                }
                Who::Role { name, id, session }
            }
            ("iam", ["user", .., name]) => {
                if !is_id(user_id, "AIDA") || !is_name(name) {
                    return Err(fault);
                }
                Who::User { name, id: user_id }
            }
            // The root user, federated users and whatever AWS may add are nobody's agent.
            _ => return Err(fault),
        };
        Ok(Self {
            partition,
            account,
            arn,
            who,
        })
    }

    fn claims(&self) -> Map<String, Value> {
        let Self {
            partition,
            account,
            arn,
            who,
        } = self;
        let own = match who {
            Who::Role { name, id, session } => vec![
                ("sub", format!("arn:{partition}:iam::{account}:role/{name}")),
                ("role", (*name).to_owned()),
                ("role_id", (*id).to_owned()),
                ("session", (*session).to_owned()),
            ],
            Who::User { name, id } => vec![
                ("sub", format!("arn:{partition}:iam::{account}:user/{name}")),
                ("user", (*name).to_owned()),
                ("user_id", (*id).to_owned()),
            ],
        };
        [("account", account), ("arn", arn), ("partition", partition)]
            .into_iter()
            .map(|(name, text)| (name, (*text).to_owned()))
            .chain(own)
            .map(|(name, text)| (name.to_owned(), Value::from(text)))
            .collect()
    }
}

/// IAM's unique ids: never used again, whatever happens to the name.
fn is_id(text: &str, prefix: &str) -> bool {
    text.starts_with(prefix)
        && (8..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
}

/// STS says that later may go better, with a status that says otherwise.
pub(super) fn is_throttled(status: u16, xml: &str) -> bool {
    let code = element(xml, "Code").unwrap_or_default();
    status == 429
        || matches!(
            code,
            "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "RequestThrottled"
        )
}

/// The code that STS gives, on one bounded line; its message may repeat what was sent.
pub(super) fn shown(status: u16, xml: &str) -> String {
    let code: String = element(xml, "Code")
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(64)
        .collect();
    format!("STS answered with status {status} {code}")
}

#[cfg(test)]
mod tests;
