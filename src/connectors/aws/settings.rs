//! `[target.NAME]` of kind `aws`: what can be checked without asking AWS.

use super::super::{AwsMethod, AwsSettings, SettingProblem};

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoleArn {
    text: String,
    partition: String,
    account: String,
    /// Without its path: an assumed role's ARN has none.
    name: String,
}

impl RoleArn {
    pub fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        let [arn, partition, service, region, account, resource] = fields.as_slice() else {
            return None;
        };
        let name = resource.strip_prefix("role/")?.rsplit('/').next()?;
        let word = |part: &str, more: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
        };
        let whole = *arn == "arn"
            && word(partition, "-")
            && *service == "iam"
            && region.is_empty()
            && account.len() == 12
            && account.bytes().all(|b| b.is_ascii_digit())
            && word(resource, "/_+=,.@-")
            && word(name, "_+=,.@-");
        whole.then(|| Self {
            text: text.to_owned(),
            partition: (*partition).to_owned(),
            account: (*account).to_owned(),
            name: name.to_owned(),
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The ARN that a session of this role is seen by.
    pub fn assumed(&self, session: &str) -> String {
        let Self {
            partition,
            account,
            name,
            ..
        } = self;
        format!("arn:{partition}:sts::{account}:assumed-role/{name}/{session}")
    }
}

pub(super) fn problems(settings: &AwsSettings) -> Vec<SettingProblem> {
    let mut problems = Vec::new();
    let mut wrong = |key, why| problems.push(SettingProblem { key, why });
    if RoleArn::parse(&settings.role).is_none() {
        wrong(
            "role",
            "is not a role's ARN: write `arn:aws:iam::ACCOUNT:role/NAME`",
        );
    }
    let is_region = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if settings.region.is_empty() || !settings.region.bytes().all(is_region) {
        wrong("region", "is not a region: write one such as `eu-west-1`");
    }
    if settings
        .endpoint
        .as_deref()
        .is_some_and(|url| !is_safe(url))
    {
        wrong(
            "endpoint",
            "must be an https URL, or http on loopback, without a path or a query",
        );
    }
    if settings.access_key_id.is_some() && settings.secret_access_key.is_none() {
        wrong(
            "access_key_id",
            "comes with `secret_access_key`: set both, or neither",
        );
    }
    if settings.secret_access_key.is_some() && settings.access_key_id.is_none() {
        wrong(
            "secret_access_key",
            "comes with `access_key_id`: set both, or neither",
        );
    }
    if settings.method == AwsMethod::WebIdentity {
        if settings.access_key_id.is_some() || settings.secret_access_key.is_some() {
            wrong(
                "method",
                "`web_identity` uses no AWS key: remove the key, or write `assume_role`",
            );
        }
        if settings.external_id.is_some() {
            wrong(
                "external_id",
                "belongs to method `assume_role`: remove it, or write that method",
            );
        }
    }
    if let Some(id) = &settings.external_id {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b);
        if !(2..=1224).contains(&id.len()) || !id.bytes().all(allowed) {
            wrong(
                "external_id",
                "has 2 to 1224 letters, digits and `_+=,.@:/-`",
            );
        }
    }
    problems
}

/// SECURITY: a session's keys come back over this connection.
fn is_safe(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else {
        return false;
    };
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    let scheme = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    scheme
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use super::super::super::ConnectorSettings;
    use super::*;

    fn settings() -> AwsSettings {
        let text = r#"{ "kind": "aws", "role": "arn:aws:iam::111122223333:role/dayfly-deploy" }"#;
        match serde_json::from_str(text).unwrap() {
            ConnectorSettings::Aws(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_role_is_enough() {
        assert_eq!(settings().problems(), []);
        assert_eq!(settings().method, AwsMethod::WebIdentity);
    }

    #[test]
    fn what_is_no_role_is_refused() {
        for bad in [
            "",
            "dayfly-deploy",
            "arn:aws:iam::111122223333:user/dayfly",
            "arn:aws:iam::11112222333:role/dayfly",
            "arn:aws:iam:eu-west-1:111122223333:role/dayfly",
            "arn:aws:sts::111122223333:role/dayfly",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role/day fly",
            "arn:aws:iam::111122223333:role/a:b",
            "arn:aws:iam::111122223333:role/*",
        ] {
            assert_eq!(RoleArn::parse(bad), None, "{bad}");
            let settings = AwsSettings {
                role: bad.to_owned(),
                ..settings()
            };
            assert_eq!(settings.problems().len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_session_is_named_without_the_roles_path() {
        let role = RoleArn::parse("arn:aws-cn:iam::111122223333:role/ci/deploy").unwrap();
        assert_eq!(
            role.assumed("dfl1"),
            "arn:aws-cn:sts::111122223333:assumed-role/deploy/dfl1"
        );
    }

    #[test]
    fn keys_travel_over_tls_or_not_at_all() {
        for (url, safe) in [
            ("https://vpce-1.sts.eu-west-1.vpce.amazonaws.com", true),
            ("http://127.0.0.1:5000", true),
            ("http://[::1]:5000/", true),
            ("http://localhost:5000", true),
            ("http://sts.amazonaws.com", false),
            ("http://10.0.0.1", false),
            ("http://localhost.evil.example", false),
            ("https://user@sts.amazonaws.com", false),
            ("https://sts.amazonaws.com/path", false),
            ("https://sts.amazonaws.com/?a=b", false),
            ("ftp://127.0.0.1", false),
            ("sts.amazonaws.com", false),
        ] {
            let settings = AwsSettings {
                endpoint: Some(url.to_owned()),
                ..settings()
            };
            assert_eq!(settings.problems().is_empty(), safe, "{url}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let key = || Some("env:KEY".to_owned());
        for (settings, problems) in [
            (
                AwsSettings {
                    access_key_id: key(),
                    method: AwsMethod::AssumeRole,
                    ..settings()
                },
                1,
            ),
            (
                AwsSettings {
                    access_key_id: key(),
                    secret_access_key: key(),
                    ..settings()
                },
                1,
            ),
            (
                AwsSettings {
                    external_id: Some("abc".to_owned()),
                    ..settings()
                },
                1,
            ),
            (
                AwsSettings {
                    external_id: Some("a b".to_owned()),
                    method: AwsMethod::AssumeRole,
                    ..settings()
                },
                1,
            ),
            (
                AwsSettings {
                    region: "eu west".to_owned(),
                    ..settings()
                },
                1,
            ),
        ] {
            assert_eq!(settings.problems().len(), problems, "{settings:?}");
        }
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let text = r#"{ "kind": "aws", "role": "r", "policy": "none" }"#;
        assert!(serde_json::from_str::<ConnectorSettings>(text).is_err());
    }
}
