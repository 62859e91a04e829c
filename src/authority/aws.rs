//! IAM actions and ARNs.
//!
//! To IAM `*`, `?` and `${...}` are all patterns; only `*` is accepted here. An ARN is six fields;
//! a ceiling's `*` stays within its field, except in the last one, which is the rest of the text.
//! IAM itself lets `*` run across `:`, so a `*` that is asked for in the first five fields is
//! covered only by a ceiling that leaves that field entirely open. Whether two ARNs share anything is
//! asked as IAM would: of the whole texts.

use super::compare::Terms;
use super::glob;

pub(super) enum Aws {}

/// Lower case: IAM compares actions without case.
pub(super) enum Action {
    All,
    Of { service: String, name: String },
}

pub(super) struct Arn {
    /// Partition, service, region, account.
    fields: [String; 4],
    resource: String,
}

impl Arn {
    /// After the `arn:` that all of them have.
    fn text(&self) -> String {
        format!("{}:{}", self.fields.join(":"), self.resource)
    }
}

impl Terms for Aws {
    type Action = Action;
    type Location = Arn;
    const NEEDS_LOCATION: bool = true;

    fn action(text: &str) -> Result<Action, &'static str> {
        if text == "*" {
            return Ok(Action::All);
        }
        let (service, name) = text
            .split_once(':')
            .ok_or("an IAM action is `service:Action`")?;
        let service_fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if service.is_empty() || !service.chars().all(service_fits) {
            return Err("the service of an IAM action is letters, digits and `-`, without `*`");
        }
        let name_fits = |c: char| c.is_ascii_alphanumeric() || c == '*';
        if name.is_empty() || !name.chars().all(name_fits) {
            return Err(
                "the name of an IAM action is letters and digits; `*` is the only wildcard",
            );
        }
        Ok(Action::Of {
            service: service.to_ascii_lowercase(),
            name: glob::without_double_stars(&name.to_ascii_lowercase()),
        })
    }

    fn location(text: &str) -> Result<Arn, &'static str> {
        if !text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return Err("an ARN is printable ASCII");
        }
        if text.contains('?') || text.contains("${") {
            return Err("`?` and `${` are wildcards to IAM; use `*`");
        }
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().ok_or("an ARN is six fields between `:`");
        if next()? != "arn" {
            return Err("an ARN starts with `arn:`");
        }
        let fields = [next()?, next()?, next()?, next()?];
        let resource = next()?;
        let field_fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '*');
        if !fields.iter().all(|field| field.chars().all(field_fits)) {
            return Err("a field of an ARN is letters, digits and `-`; `*` is the only wildcard");
        }
        let [partition, service, ..] = fields;
        if partition.is_empty() || service.is_empty() || resource.is_empty() {
            return Err("an ARN names a partition, a service and a resource");
        }
        Ok(Arn {
            fields: fields.map(glob::without_double_stars),
            resource: glob::without_double_stars(resource),
        })
    }

    fn action_covers(ceiling: &Action, asked: &Action) -> bool {
        match (ceiling, asked) {
            (Action::All, _) => true,
            (Action::Of { .. }, Action::All) => false,
            (
                Action::Of { service, name },
                Action::Of {
                    service: asked_service,
                    name: asked_name,
                },
            ) => service == asked_service && glob::covers(name, asked_name),
        }
    }

    fn location_covers(ceiling: &Arn, asked: &Arn) -> bool {
        let fields = ceiling.fields.iter().zip(&asked.fields);
        glob::covers(&ceiling.resource, &asked.resource)
            && fields.into_iter().all(|(own, asked)| {
                // SECURITY: see the top of the file.
                own == "*" || (!asked.contains('*') && glob::covers(own, asked))
            })
    }

    fn is_nowhere(location: &Arn) -> Option<&'static str> {
        let [partition, _, _, account] = &location.fields;
        if !glob::overlap(partition, "aws*") {
            return Some("the partition of an ARN is `aws`, or starts with `aws-`");
        }
        let digits = account.chars().filter(|c| *c != '*');
        let is_number = digits.clone().all(|c| c.is_ascii_digit());
        let fits = match (account.contains('*'), digits.count()) {
            (true, known) => known <= 12,
            (false, known) => known == 12,
        };
        // Buckets have no account, AWS's own policies are of account `aws`.
        if !account.is_empty() && account != "aws" && !(is_number && fits) {
            return Some("the account of an ARN is 12 digits");
        }
        None
    }

    fn actions_overlap(one: &Action, other: &Action) -> bool {
        match (one, other) {
            (Action::All, _) | (_, Action::All) => true,
            (
                Action::Of { service, name },
                Action::Of {
                    service: other_service,
                    name: other_name,
                },
            ) => service == other_service && glob::overlap(name, other_name),
        }
    }

    fn locations_overlap(one: &Arn, other: &Arn) -> bool {
        // SECURITY: as IAM reads them, as whole texts: `*:checkout*` is also `*:*:function:checkout`.
        // Without a `*` in the first five fields of either this is the comparison field by field.
        glob::overlap(&one.text(), &other.text())
    }
}
