use super::*;
use crate::identity::{claims, tokens};
use serde_json::json;

fn fields(value: Value) -> BTreeMap<String, Value> {
    serde_json::from_value(value).unwrap()
}

#[test]
fn every_preset_is_found_by_its_name() {
    for preset in all() {
        assert_eq!(by_name(preset.name), Some(*preset));
    }
    assert_eq!(by_name("jenkins"), None);
}

#[test]
fn every_shared_issuer_has_a_tenant_claim_to_pin() {
    for preset in all() {
        assert_eq!(
            preset.url.is_some(),
            !preset.tenant.is_empty(),
            "{}",
            preset.name
        );
    }
    assert!(tenant_claims("https://gitlab.com/").is_some());
    assert!(tenant_claims("https://gitlab.acme.example").is_none());
}

#[test]
fn every_claim_that_a_preset_names_is_in_the_token_it_is_about() {
    let optional = ["deployment_tier", "enterprise_id"];
    for (name, token) in [
        (
            "github",
            tokens::github(0, "i", "a", tokens::GithubSubject::Immutable),
        ),
        ("gitlab", tokens::gitlab(0, "i", "a")),
        ("kubernetes", tokens::kubernetes(0, "i", "a")),
        ("gcp", tokens::gcp(0, "i", "a")),
        ("buildkite", tokens::buildkite(0, "i", "a")),
        ("circleci", tokens::circleci(0, "i", "a")),
        ("aws", tokens::aws(0, "i", "a")),
    ] {
        let preset = by_name(name).unwrap();
        let claims = token.as_object().unwrap();
        let facts = preset.facts.iter().map(|(_, claim)| *claim);
        let identity = preset.identity.iter().map(|(_, claim)| *claim);
        let refused = preset.refused.iter().map(|(claim, _)| *claim);
        let ids = preset.ids.iter().copied();
        for claim in facts.chain(identity).chain(refused).chain(ids) {
            if !claim.starts_with('=') && !optional.contains(&claim) {
                assert!(claims::find(claims, claim).is_some(), "{name}: {claim}");
            }
        }
    }
}

#[test]
fn the_short_form_of_the_first_mission_becomes_exact_claims() {
    let claims = by_name("github")
        .unwrap()
        .identity_claims(&fields(json!({
            "github": "acme/checkout",
            "repository_id": 1234,
            "workflow": "deploy.yml",
            "ref": "refs/heads/main",
        })))
        .unwrap();
    assert_eq!(
        claims,
        fields(json!({
            "repository": "acme/checkout",
            "repository_id": 1234,
            "workflow_ref": "acme/checkout/.github/workflows/deploy.yml@refs/heads/main",
            "ref": "refs/heads/main",
        }))
    );
}

#[test]
fn a_claim_of_its_own_name_is_taken_as_it_is() {
    let claims = by_name("github")
        .unwrap()
        .identity_claims(&fields(
            json!({"repository_id": "1", "claim.actor_id": "555"}),
        ))
        .unwrap();
    assert_eq!(
        claims,
        fields(json!({"repository_id": "1", "actor_id": "555"}))
    );
}

#[test]
fn an_identity_by_names_alone_is_refused() {
    let by_names = fields(json!({"github": "acme/checkout", "ref": "refs/heads/main"}));
    assert_eq!(
        by_name("github").unwrap().identity_claims(&by_names),
        Err(PresetError::NoId {
            preset: "github",
            ids: "`repository_id`, `repository_owner_id`".to_owned()
        })
    );
}

#[test]
fn of_two_values_of_one_claim_none_is_left_out() {
    for (preset, written, claim) in [
        ("generic", json!({"subject": "a", "claim.sub": "b"}), "sub"),
        (
            "gitlab",
            json!({"project_id": 8, "claim.project_id": "9"}),
            "project_id",
        ),
        (
            "github",
            json!({"github": "acme/shop", "repository_id": 1, "ref": "r", "workflow": "w", "claim.workflow_ref": "x"}),
            "workflow_ref",
        ),
    ] {
        let found = by_name(preset).unwrap().identity_claims(&fields(written));
        assert_eq!(found, Err(PresetError::TwoValues(claim.to_owned())));
    }
    let same = fields(json!({"project_id": 8, "claim.project_id": "8"}));
    assert!(by_name("gitlab").unwrap().identity_claims(&same).is_ok());
}

#[test]
fn a_workflow_without_its_ref_is_refused() {
    let preset = by_name("github").unwrap();
    let result = preset.identity_claims(&fields(
        json!({"github": "acme/checkout", "repository_id": 1, "workflow": "deploy.yml"}),
    ));
    assert_eq!(result, Err(PresetError::Workflow("ref")));
}

#[test]
fn an_unknown_field_and_a_field_that_is_no_scalar_are_named() {
    let preset = by_name("gitlab").unwrap();
    assert!(matches!(
        preset.identity_claims(&fields(json!({"project_id": 1, "branch": "main"}))),
        Err(PresetError::UnknownField { field, .. }) if field == "branch"
    ));
    assert_eq!(
        preset.identity_claims(&fields(json!({"project_id": ["1"]}))),
        Err(PresetError::NotScalar("project_id".to_owned()))
    );
}

#[test]
fn a_platform_without_an_issuer_of_its_own_needs_a_url() {
    let id: IssuerId = "cluster".parse().unwrap();
    let preset = by_name("kubernetes").unwrap();
    assert_eq!(
        preset.settings(id.clone(), None, vec![]).unwrap_err(),
        PresetError::NoUrl("kubernetes")
    );
    let url = "https://kubernetes.default.svc".to_owned();
    let settings = preset
        .settings(id, Some(url.clone()), vec!["a".to_owned()])
        .unwrap();
    assert_eq!(settings.url, url);
    assert!(!settings.single_use);
}
