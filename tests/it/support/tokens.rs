//! Tokens as the platforms make them: claim sets with every member that the real ones carry, and
//! keys to sign them with. Pure: the time, the issuer and the audience are the caller's.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared by several test crates, none of which uses all of it; what cannot be made fails the test"
)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};

/// A key that signs compact JWS.
#[derive(Clone)]
pub struct Signer {
    kid: String,
    key: Arc<Key>,
}

enum Key {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

impl Signer {
    /// A new P-256 key.
    pub fn es256(kid: &str) -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Self {
            kid: kid.to_owned(),
            key: Arc::new(Key::Es256(key)),
        }
    }

    /// A 2048-bit RSA key, the same one for the life of the process.
    pub fn rs256(kid: &str) -> Self {
        static KEY: OnceLock<Vec<u8>> = OnceLock::new();
        let der = KEY.get_or_init(|| {
            josekit::jwk::alg::rsa::RsaKeyPair::generate(2048)
                .unwrap()
                .to_raw_private_key()
        });
        Self {
            kid: kid.to_owned(),
            key: Arc::new(Key::Rs256(RsaKeyPair::from_der(der).unwrap())),
        }
    }

    pub fn algorithm(&self) -> &'static str {
        match &*self.key {
            Key::Es256(_) => "ES256",
            Key::Rs256(_) => "RS256",
        }
    }

    /// The public key as it stands in a JWK set.
    pub fn jwk(&self) -> Value {
        let mut jwk = self.bare_jwk();
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm());
        jwk["use"] = json!("sig");
        jwk
    }

    /// The public key with the members that RFC 7638 hashes, and no other.
    pub fn bare_jwk(&self) -> Value {
        match &*self.key {
            Key::Es256(key) => {
                let point = key.public_key().as_ref();
                json!({
                    "crv": "P-256",
                    "kty": "EC",
                    "x": encode(&point[1..33]),
                    "y": encode(&point[33..65]),
                })
            }
            Key::Rs256(key) => {
                let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"e": encode(&public.e), "kty": "RSA", "n": encode(&public.n)})
            }
        }
    }

    pub fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk()] })
    }

    /// RFC 7638: members in lexicographic order and without space.
    pub fn thumbprint(&self) -> String {
        let bare: std::collections::BTreeMap<String, Value> =
            serde_json::from_value(self.bare_jwk()).unwrap();
        sha256(serde_json::to_string(&bare).unwrap().as_bytes())
    }

    /// Signed with `alg` and `kid` in the header, and what `header` adds. A member that is `null`
    /// in `header` is left out.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let mut full = json!({"alg": self.algorithm(), "kid": self.kid});
        for (name, value) in header.as_object().unwrap() {
            if value.is_null() {
                full.as_object_mut().unwrap().remove(name);
            } else {
                full[name] = value.clone();
            }
        }
        self.sign_raw(&full.to_string(), &claims.to_string())
    }

    /// A DPoP proof (RFC 9449 section 4.2) with this key in its header.
    pub fn dpop(&self, claims: &Value) -> String {
        let header = json!({"typ": "dpop+jwt", "kid": null, "jwk": self.bare_jwk()});
        self.sign(&header, claims)
    }

    /// Signs exactly these bytes.
    pub fn sign_raw(&self, header: &str, claims: &str) -> String {
        let input = format!(
            "{}.{}",
            encode(header.as_bytes()),
            encode(claims.as_bytes())
        );
        let random = SystemRandom::new();
        let signature = match &*self.key {
            Key::Es256(key) => key
                .sign(&random, input.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec(),
            Key::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, input.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
        };
        format!("{input}.{}", encode(&signature))
    }
}

/// SHA-256 in base64url without padding, as in `subject_token_hash`.
pub fn sha256(bytes: &[u8]) -> String {
    encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Which form of `sub` GitHub sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GithubSubject {
    /// `repo:OWNER/REPO:...`
    Names,
    /// `repo:OWNER@OWNER_ID/REPO@REPO_ID:...`
    Immutable,
}

/// A deployment of `acme/checkout` to `production` on GitHub Actions.
pub fn github(now: i64, issuer: &str, audience: &str, subject: GithubSubject) -> Value {
    let repo = match subject {
        GithubSubject::Names => "acme/checkout",
        GithubSubject::Immutable => "acme@4321/checkout@1234",
    };
    json!({
        "jti": format!("6f4f1f9b-6d4b-4f0f-9d57-{now:012}"),
        "sub": format!("repo:{repo}:environment:production"),
        "aud": audience,
        "iss": issuer,
        "iat": now,
        "nbf": now - 300,
        "exp": now + 300,
        "ref": "refs/heads/main",
        "sha": "2f9c1d1f0a4e4b1d8a5c3e7f6b9d0c2a1e8f7d6c",
        "repository": "acme/checkout",
        "repository_owner": "acme",
        "repository_id": "1234",
        "repository_owner_id": "4321",
        "repository_visibility": "private",
        "run_id": "9876543210",
        "run_number": "42",
        "run_attempt": "1",
        "check_run_id": "55667788990",
        "runner_environment": "github-hosted",
        "actor": "octavia",
        "actor_id": "555",
        "workflow": "Deploy",
        "workflow_ref": "acme/checkout/.github/workflows/deploy.yml@refs/heads/main",
        "workflow_sha": "2f9c1d1f0a4e4b1d8a5c3e7f6b9d0c2a1e8f7d6c",
        "job_workflow_ref": "acme/checkout/.github/workflows/deploy.yml@refs/heads/main",
        "job_workflow_sha": "2f9c1d1f0a4e4b1d8a5c3e7f6b9d0c2a1e8f7d6c",
        "event_name": "push",
        "head_ref": "",
        "base_ref": "",
        "ref_type": "branch",
        "ref_protected": "true",
        "environment": "production",
        "environment_node_id": "EN_kwDOabc",
        "enterprise": "acme-corp",
        "enterprise_id": "77"
    })
}

/// A job of `acme/checkout` on GitLab; the same token serves for the whole job.
pub fn gitlab(now: i64, issuer: &str, audience: &str) -> Value {
    json!({
        "namespace_id": "72",
        "namespace_path": "acme",
        "project_id": "20",
        "project_path": "acme/checkout",
        "user_id": "1",
        "user_login": "octavia",
        "user_email": "octavia@acme.example",
        "user_access_level": "maintainer",
        "user_identities": [{"provider": "saml", "extern_uid": "0001"}],
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "groups_direct": ["acme", "acme/deployers"],
        "environment": "production",
        "environment_protected": "true",
        "deployment_tier": "production",
        "environment_action": "start",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "project_visibility": "private",
        "ci_config_ref_uri": "gitlab.com/acme/checkout//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "jti": format!("235b3a54-b797-45c7-ae9a-{now:012}"),
        "iss": issuer,
        "iat": now,
        "nbf": now - 5,
        "exp": now + 3600,
        "sub": "project_path:acme/checkout:ref_type:branch:ref:main",
        "aud": audience
    })
}

/// A projected service account token of pod `checkout-7d9f` in namespace `shop`.
pub fn kubernetes(now: i64, issuer: &str, audience: &str) -> Value {
    json!({
        "aud": [audience],
        "exp": now + 3607,
        "iat": now,
        "iss": issuer,
        "jti": "a9f2d9b8-5a0e-4d4c-9f0a-0c2f6a1c7d11",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "node-a", "uid": "4b1f3a52-6f4b-49c7-8f8e-d9a7e4f2b6c1"},
            "pod": {"name": "checkout-7d9f", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
            "serviceaccount": {"name": "checkout", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"}
        },
        "nbf": now,
        "sub": "system:serviceaccount:shop:checkout"
    })
}

/// An identity token of a machine of project `acme-prod`, asked for with `format=full`.
pub fn gcp(now: i64, issuer: &str, audience: &str) -> Value {
    json!({
        "aud": audience,
        "azp": "104523456789012345678",
        "email": "checkout@acme-prod.iam.gserviceaccount.com",
        "email_verified": true,
        "exp": now + 3600,
        "google": {"compute_engine": {
            "instance_creation_timestamp": 1_700_000_000,
            "instance_id": "4815162342108151623",
            "instance_name": "checkout-1",
            "project_id": "acme-prod",
            "project_number": 271_828_182_845_i64,
            "zone": "europe-west1-b"
        }},
        "iat": now,
        "iss": issuer,
        "sub": "104523456789012345678"
    })
}

/// A job of `acme-inc/checkout` on Buildkite that asked for `--claim organization_id,pipeline_id,build_id`.
pub fn buildkite(now: i64, issuer: &str, audience: &str) -> Value {
    json!({
        "iss": issuer,
        "sub": "organization:acme-inc:pipeline:checkout:ref:refs/heads/main:commit:9f3182061f1e2cca4702c368cbc039b7dc9d4485:step:deploy",
        "aud": audience,
        "iat": now,
        "nbf": now,
        "exp": now + 300,
        "jti": "01940a5c-2a52-7b5e-8ee7-cb1d58a8d6b7",
        "organization_slug": "acme-inc",
        "organization_id": "0184990a-477b-4fa8-9968-496074483cee",
        "pipeline_slug": "checkout",
        "pipeline_id": "0184990a-4782-42b5-afc1-16715b10b8ff",
        "build_id": "0184990a-4783-4a52-8af6-1c3cbe0a9d1b",
        "build_number": 42,
        "build_branch": "main",
        "build_tag": "v1.42.0",
        "build_commit": "9f3182061f1e2cca4702c368cbc039b7dc9d4485",
        "build_source": "webhook",
        "step_key": "deploy",
        "job_id": "0184990a-4784-4b11-9a0c-3a5a3f3d6f0a",
        "agent_id": "0184990a-4785-4c6e-b4f5-b1f8f2b9a1de",
        "runner_environment": "buildkite-hosted"
    })
}

/// A job of organisation `0a1b...` on CircleCI: `$CIRCLE_OIDC_TOKEN_V2`, with an audience of its own.
pub fn circleci(now: i64, issuer: &str, audience: &str) -> Value {
    json!({
        "aud": audience,
        "exp": now + 3600,
        "iat": now,
        "iss": issuer,
        "oidc.circleci.com/context-ids": ["a74579f1-2e7d-451e-b009-5c082ad2729e"],
        "oidc.circleci.com/job-id": "5f2d1a1e-1f6e-4a39-b1c7-0c7f8f6f5c2b",
        "oidc.circleci.com/org-id": "0a1b2c3d-4e5f-4061-8293-a4b5c6d7e8f9",
        "oidc.circleci.com/pipeline-definition-id": "c1f0d7de-7f0d-4c0d-9f57-5a4e1a8a4f11",
        "oidc.circleci.com/pipeline-id": "7b6b4d4c-0f6d-4b0c-8a55-5e2d1c9f4a30",
        "oidc.circleci.com/project-id": "6f9e2c1d-55aa-4c77-9d3e-2b1a0f9e8d7c",
        "oidc.circleci.com/ssh-rerun": false,
        "oidc.circleci.com/vcs-origin": "github.com/acme/checkout",
        "oidc.circleci.com/vcs-ref": "refs/heads/main",
        "oidc.circleci.com/workflow-id": "b9a0b4e0-2b3a-4f6e-9f4f-4f8d9d6e7a51",
        "sub": "org/0a1b2c3d-4e5f-4061-8293-a4b5c6d7e8f9/project/6f9e2c1d-55aa-4c77-9d3e-2b1a0f9e8d7c/user/3c2b1a09-8877-4665-a544-332211009988/vcs-origin/github.com/acme/checkout/vcs-ref/refs/heads/main"
    })
}

/// What `sts:GetWebIdentityToken` issues to a Lambda function's role.
pub fn aws(now: i64, issuer: &str, audience: &str) -> Value {
    json!({
        "iss": issuer,
        "aud": audience,
        "sub": "arn:aws:iam::111122223333:role/ci/checkout-deploy",
        "iat": now,
        "exp": now + 300,
        "jti": "0f9d7c5b-3a1e-4f2d-8c6b-9a8b7c6d5e4f",
        "https://sts.amazonaws.com/": {
            "aws_account": "111122223333",
            "source_region": "eu-west-1",
            "org_id": "o-abc1234567",
            "ou_path": "o-abc1234567/r-ab12/ou-ab12-11111111/",
            "principal_tags": {"team": "payments"},
            "original_session_exp": "2026-11-21T18:00:00Z",
            "ec2_source_instance_arn": "arn:aws:ec2:eu-west-1:111122223333:instance/i-0abc123def456",
            "ec2_instance_source_vpc": "vpc-0abc123def456",
            "ec2_instance_source_private_ipv4": "10.0.1.25",
            "ec2_role_delivery": "2",
            "lambda_source_function_arn": "arn:aws:lambda:eu-west-1:111122223333:function:deploy",
            "source_identity": "octavia",
            "request_tags": {"environment": "production"}
        }
    })
}

/// A client assertion that every rule accepts.
pub fn assertion(now: i64, client: &str, audience: &str) -> Value {
    json!({
        "iss": client,
        "sub": client,
        "aud": audience,
        "iat": now,
        "exp": now + 60,
        "jti": format!("assertion-{now}")
    })
}

/// An intent of `agent` that every rule accepts, for one ECS deployment on target `aws-prod`.
pub fn intent(now: i64, agent: &str, audience: &str) -> Value {
    json!({
        "iss": agent,
        "sub": agent,
        "client_id": agent,
        "aud": audience,
        "iat": now,
        "exp": now + 120,
        "jti": format!("intent-{now}"),
        "txn": "7f0c",
        "instance": "worker-1",
        "mission": {"id": "deploy-checkout"},
        "authorization_details": [{
            "type": "aws_session",
            "identifier": "aws-prod",
            "actions": ["ecs:UpdateService"],
            "locations": ["arn:aws:ecs:eu-west-1:111122223333:service/prod/checkout"],
            "max_ttl": 900
        }],
        "intent": {"goal": "Deploy checkout 1.42 to production"},
        "tctx": {"change": {"system": "servicenow", "id": "CHG0031337"}}
    })
}
