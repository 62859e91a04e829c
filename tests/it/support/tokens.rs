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
