//! What each platform's tokens look like: data, no code.

use super::Preset;
use crate::jose::Algorithm;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Tokens live five minutes and are issued on request with an audience of the job's choice.
/// `sub` has two forms (with and without ids in it), so nothing is matched on it.
pub(super) const GITHUB: Preset = Preset {
    name: "github",
    url: Some("https://token.actions.githubusercontent.com"),
    algorithms: &[Algorithm::Rs256],
    single_use: false,
    max_lifetime: HOUR,
    pin: None,
    facts: &[
        ("pipeline.provider", "=github"),
        ("pipeline.run_id", "run_id"),
        ("pipeline.run_attempt", "run_attempt"),
        ("pipeline.run_number", "run_number"),
        ("pipeline.job_id", "check_run_id"),
        ("pipeline.sha", "sha"),
        ("pipeline.ref", "ref"),
        ("pipeline.ref_type", "ref_type"),
        ("pipeline.ref_protected", "ref_protected"),
        ("pipeline.environment", "environment"),
        ("pipeline.repository", "repository"),
        ("pipeline.repository_id", "repository_id"),
        ("pipeline.repository_owner", "repository_owner"),
        ("pipeline.repository_owner_id", "repository_owner_id"),
        ("pipeline.workflow", "workflow_ref"),
        ("pipeline.workflow_sha", "workflow_sha"),
        ("pipeline.job_workflow", "job_workflow_ref"),
        ("pipeline.event", "event_name"),
        ("pipeline.actor", "actor"),
        ("pipeline.actor_id", "actor_id"),
        ("pipeline.runner", "runner_environment"),
        ("pipeline.visibility", "repository_visibility"),
    ],
    // Runs with the base repository's rights on code that a stranger wrote.
    refused: &[("event_name", "pull_request_target")],
    tenant: &["repository_owner_id", "enterprise_id", "repository_id"],
    identity: &[
        ("github", "repository"),
        ("repository", "repository"),
        ("repository_id", "repository_id"),
        ("repository_owner", "repository_owner"),
        ("repository_owner_id", "repository_owner_id"),
        ("environment", "environment"),
        ("ref", "ref"),
        ("ref_protected", "ref_protected"),
        ("event", "event_name"),
        ("workflow_ref", "workflow_ref"),
        ("job_workflow_ref", "job_workflow_ref"),
        ("runner", "runner_environment"),
        ("visibility", "repository_visibility"),
    ],
    ids: &["repository_id", "repository_owner_id"],
};

/// A token lives as long as its job may, and every step of the job sends the same one.
const GITLAB: Preset = Preset {
    name: "gitlab",
    url: Some("https://gitlab.com"),
    algorithms: &[Algorithm::Rs256],
    single_use: false,
    max_lifetime: DAY,
    // A job that is tried again is another job, and its token lives no longer than a day.
    pin: Some(("job_id", DAY)),
    facts: &[
        ("pipeline.provider", "=gitlab"),
        ("pipeline.run_id", "pipeline_id"),
        ("pipeline.job_id", "job_id"),
        ("pipeline.sha", "sha"),
        ("pipeline.ref", "ref"),
        ("pipeline.ref_type", "ref_type"),
        ("pipeline.ref_protected", "ref_protected"),
        ("pipeline.environment", "environment"),
        ("pipeline.environment_protected", "environment_protected"),
        ("pipeline.environment_tier", "deployment_tier"),
        ("pipeline.repository", "project_path"),
        ("pipeline.repository_id", "project_id"),
        ("pipeline.repository_owner", "namespace_path"),
        ("pipeline.repository_owner_id", "namespace_id"),
        ("pipeline.workflow", "ci_config_ref_uri"),
        ("pipeline.workflow_sha", "ci_config_sha"),
        ("pipeline.event", "pipeline_source"),
        ("pipeline.actor", "user_login"),
        ("pipeline.actor_id", "user_id"),
        ("pipeline.runner", "runner_environment"),
        ("pipeline.visibility", "project_visibility"),
    ],
    refused: &[],
    tenant: &["namespace_id", "project_id"],
    identity: &[
        ("gitlab", "project_path"),
        ("project", "project_path"),
        ("project_id", "project_id"),
        ("namespace", "namespace_path"),
        ("namespace_id", "namespace_id"),
        ("environment", "environment"),
        ("environment_protected", "environment_protected"),
        ("ref", "ref"),
        ("ref_type", "ref_type"),
        ("ref_protected", "ref_protected"),
        ("event", "pipeline_source"),
        ("workflow_ref", "ci_config_ref_uri"),
        ("runner", "runner_environment"),
    ],
    ids: &["project_id", "namespace_id"],
};

/// Projected service account tokens: the kubelet renews the file, clients send it again and again.
const KUBERNETES: Preset = Preset {
    name: "kubernetes",
    url: None,
    algorithms: &[Algorithm::Rs256, Algorithm::Es256],
    single_use: false,
    max_lifetime: DAY,
    // A pod that is asleep for a month and then asks is held to nothing.
    pin: Some(("kubernetes.io.pod.uid", MONTH)),
    facts: &[
        ("kubernetes.namespace", "kubernetes.io.namespace"),
        (
            "kubernetes.service_account",
            "kubernetes.io.serviceaccount.name",
        ),
        (
            "kubernetes.service_account_uid",
            "kubernetes.io.serviceaccount.uid",
        ),
        ("kubernetes.pod", "kubernetes.io.pod.name"),
        ("kubernetes.pod_uid", "kubernetes.io.pod.uid"),
        ("kubernetes.node", "kubernetes.io.node.name"),
        ("kubernetes.node_uid", "kubernetes.io.node.uid"),
    ],
    refused: &[],
    tenant: &[],
    identity: &[
        ("namespace", "kubernetes.io.namespace"),
        ("service_account", "kubernetes.io.serviceaccount.name"),
        ("service_account_uid", "kubernetes.io.serviceaccount.uid"),
        ("node", "kubernetes.io.node.name"),
    ],
    // A namespace and an account's name are what RBAC itself goes by.
    ids: &[
        "kubernetes.io.serviceaccount.name",
        "kubernetes.io.serviceaccount.uid",
    ],
};

/// Identity tokens of service accounts. Only a token asked for with `format=full` names the machine.
const GCP: Preset = Preset {
    name: "gcp",
    url: Some("https://accounts.google.com"),
    algorithms: &[Algorithm::Rs256],
    single_use: false,
    max_lifetime: HOUR,
    pin: None,
    facts: &[
        ("gcp.service_account", "email"),
        ("gcp.service_account_id", "sub"),
        ("gcp.project", "google.compute_engine.project_id"),
        ("gcp.project_number", "google.compute_engine.project_number"),
        ("gcp.zone", "google.compute_engine.zone"),
        ("gcp.instance", "google.compute_engine.instance_name"),
        ("gcp.instance_id", "google.compute_engine.instance_id"),
    ],
    refused: &[],
    tenant: &[
        "google.compute_engine.project_number",
        "google.compute_engine.project_id",
        "sub",
    ],
    identity: &[
        ("service_account", "email"),
        ("service_account_id", "sub"),
        ("project", "google.compute_engine.project_id"),
        ("project_number", "google.compute_engine.project_number"),
        ("instance_id", "google.compute_engine.instance_id"),
    ],
    ids: &["sub", "google.compute_engine.instance_id"],
};

const BUILDKITE: Preset = Preset {
    name: "buildkite",
    url: Some("https://agent.buildkite.com"),
    algorithms: &[Algorithm::Rs256],
    single_use: false,
    max_lifetime: HOUR,
    pin: None,
    facts: &[
        ("pipeline.provider", "=buildkite"),
        ("pipeline.run_id", "build_id"),
        ("pipeline.run_number", "build_number"),
        ("pipeline.job_id", "job_id"),
        ("pipeline.step", "step_key"),
        ("pipeline.sha", "build_commit"),
        ("pipeline.ref", "build_branch"),
        ("pipeline.tag", "build_tag"),
        ("pipeline.event", "build_source"),
        ("pipeline.repository", "pipeline_slug"),
        ("pipeline.repository_id", "pipeline_id"),
        ("pipeline.repository_owner", "organization_slug"),
        ("pipeline.repository_owner_id", "organization_id"),
        ("pipeline.runner", "runner_environment"),
        ("pipeline.runner_id", "agent_id"),
    ],
    refused: &[],
    tenant: &["organization_id", "organization_slug"],
    identity: &[
        ("organization", "organization_slug"),
        ("organization_id", "organization_id"),
        ("pipeline", "pipeline_slug"),
        ("pipeline_id", "pipeline_id"),
        ("ref", "build_branch"),
        ("step", "step_key"),
        ("event", "build_source"),
    ],
    // Ids are in the token only where the job asks for them (`--claim pipeline_id`).
    ids: &["pipeline_id", "pipeline_slug"],
};

/// The issuer is the organisation's own, so strangers are kept out by its URL.
const CIRCLECI: Preset = Preset {
    name: "circleci",
    url: None,
    algorithms: &[Algorithm::Rs256],
    single_use: false,
    max_lifetime: HOUR,
    pin: None,
    facts: &[
        ("pipeline.provider", "=circleci"),
        ("pipeline.run_id", "oidc.circleci.com/pipeline-id"),
        ("pipeline.job_id", "oidc.circleci.com/job-id"),
        ("pipeline.repository", "oidc.circleci.com/vcs-origin"),
        ("pipeline.repository_id", "oidc.circleci.com/project-id"),
        ("pipeline.repository_owner_id", "oidc.circleci.com/org-id"),
        ("pipeline.ref", "oidc.circleci.com/vcs-ref"),
        (
            "pipeline.workflow",
            "oidc.circleci.com/pipeline-definition-id",
        ),
        ("pipeline.contexts", "oidc.circleci.com/context-ids"),
    ],
    // Someone has a shell in the job.
    refused: &[("oidc.circleci.com/ssh-rerun", "true")],
    tenant: &[],
    identity: &[
        ("project_id", "oidc.circleci.com/project-id"),
        ("repository", "oidc.circleci.com/vcs-origin"),
        ("ref", "oidc.circleci.com/vcs-ref"),
        (
            "pipeline_definition_id",
            "oidc.circleci.com/pipeline-definition-id",
        ),
    ],
    ids: &["oidc.circleci.com/project-id"],
};

/// `sts:GetWebIdentityToken`: an account that has outbound federation on has an issuer of its own,
/// and a caller asks for a token with an audience of its choice. What the caller may add itself
/// (`request_tags`) is no fact.
const AWS: Preset = Preset {
    name: "aws",
    url: None,
    algorithms: &[Algorithm::Es384, Algorithm::Rs256],
    single_use: false,
    max_lifetime: HOUR,
    pin: None,
    facts: &[
        ("aws.principal", "sub"),
        ("aws.account", "https://sts.amazonaws.com/.aws_account"),
        ("aws.region", "https://sts.amazonaws.com/.source_region"),
        ("aws.organization", "https://sts.amazonaws.com/.org_id"),
        (
            "aws.organization_path",
            "https://sts.amazonaws.com/.ou_path",
        ),
        (
            "aws.instance",
            "https://sts.amazonaws.com/.ec2_source_instance_arn",
        ),
        (
            "aws.vpc",
            "https://sts.amazonaws.com/.ec2_instance_source_vpc",
        ),
        (
            "aws.function",
            "https://sts.amazonaws.com/.lambda_source_function_arn",
        ),
        (
            "aws.source_identity",
            "https://sts.amazonaws.com/.source_identity",
        ),
    ],
    refused: &[],
    tenant: &[],
    identity: &[
        ("principal", "sub"),
        ("account", "https://sts.amazonaws.com/.aws_account"),
        ("organization", "https://sts.amazonaws.com/.org_id"),
        (
            "instance",
            "https://sts.amazonaws.com/.ec2_source_instance_arn",
        ),
        (
            "function",
            "https://sts.amazonaws.com/.lambda_source_function_arn",
        ),
    ],
    // A principal's ARN, in an account whose issuer no other account has.
    ids: &["sub"],
};

/// A signed `sts:GetCallerIdentity`, for accounts without outbound federation. There is no token:
/// STS itself says whose signature it is, and the claims are what it says.
pub(super) const AWS_STS: Preset = Preset {
    name: "aws_sts",
    url: Some("https://sts.amazonaws.com"),
    algorithms: &[],
    single_use: true,
    max_lifetime: Duration::from_secs(300),
    pin: None,
    facts: &[
        ("aws.principal", "sub"),
        ("aws.account", "account"),
        ("aws.role", "role"),
        ("aws.role_id", "role_id"),
        ("aws.session", "session"),
        ("aws.user", "user"),
        ("aws.user_id", "user_id"),
    ],
    refused: &[],
    tenant: &["account"],
    identity: &[
        ("account", "account"),
        ("role", "role"),
        ("role_id", "role_id"),
        ("session", "session"),
        ("user", "user"),
        ("user_id", "user_id"),
    ],
    // A role that was deleted and made again has the same name and another id.
    ids: &["role_id", "user_id"],
};

/// Any OpenID Connect issuer, SPIRE's JWT-SVIDs included: agents are matched on `sub`.
const GENERIC: Preset = Preset {
    name: "generic",
    url: None,
    algorithms: &[
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::Ed25519,
        Algorithm::Ps256,
        Algorithm::Rs256,
    ],
    single_use: false,
    max_lifetime: HOUR,
    pin: None,
    facts: &[],
    refused: &[],
    tenant: &[],
    identity: &[("subject", "sub")],
    ids: &["sub"],
};

pub(super) const ALL: [&Preset; 9] = [
    &GITHUB,
    &GITLAB,
    &KUBERNETES,
    &GCP,
    &BUILDKITE,
    &CIRCLECI,
    &AWS,
    &AWS_STS,
    &GENERIC,
];
