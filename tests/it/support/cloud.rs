//! moto as the target of a broker: who may look around there, and as whom the broker asks.

use super::moto::Moto;
use super::process::secret_file;
use std::path::Path;

/// `endpoint`: where it is reached, which may be something in front of it.
pub fn target(moto: &Moto, endpoint: &str) -> String {
    format!(
        r#"
[target.aws-prod]
kind = "aws"
role = "{}"
method = "assume_role"
endpoint = "{endpoint}"
access_key_id = "file:aws.id"
secret_access_key = "file:aws.secret"
ceiling = {{ actions = ["s3:*"], locations = ["*"] }}
"#,
        moto.role_arn
    )
}

/// The target, and a mission of the deployer's on it.
pub fn mission(moto: &Moto, endpoint: &str) -> String {
    let target = target(moto, endpoint);
    format!(
        r#"
[mission.look-around]
agents = ["deployer"]
owner = "sre@acme.example"
purpose = "See which buckets there are"
ttl = "15m"
allow = [{{ target = "aws-prod", actions = ["s3:ListAllMyBuckets"], locations = ["*"] }}]
{target}"#
    )
}

/// What the target refers to, in the configuration's folder.
pub fn secrets(moto: &Moto, folder: &Path) {
    secret_file(&folder.join("aws.id"), &moto.access_key_id);
    secret_file(&folder.join("aws.secret"), &moto.secret_access_key);
}
