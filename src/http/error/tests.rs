use super::*;
use std::fmt::Write as _;

fn every_kind_of_refusal() -> impl Iterator<Item = Refusal> {
    Reason::ALL.iter().flat_map(|reason| {
        let plain = Refusal::new(*reason, "why");
        let exact = Refusal::new(*reason, "why")
            .exact()
            .at(Some("authorization_details[0]".to_owned()));
        [plain, exact]
    })
}

/// What is on the wire, without what differs by itself.
fn comparable(refusal: &Refusal) -> (StatusCode, serde_json::Value) {
    let (face, body) = told(refusal);
    let mut body = serde_json::to_value(body).unwrap();
    body.as_object_mut().unwrap().remove("refusal_id").unwrap();
    (face.status, body)
}

#[test]
fn the_wire_face_of_every_reason_is_as_recorded() {
    let mut text = String::new();
    for refusal in every_kind_of_refusal() {
        let (status, body) = comparable(&refusal);
        let kind = if refusal.exact { "exact" } else { "plain" };
        writeln!(
            text,
            "{} {kind}: {} {body}",
            refusal.reason,
            status.as_u16()
        )
        .unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn unknown_suspended_foreign_and_denied_look_alike() {
    let unknown = comparable(&Refusal::new(Reason::UnknownAgent, "a"));
    for reason in [
        Reason::AgentNotInStanding,
        Reason::UnknownMission,
        Reason::UnknownTarget,
        Reason::ExceedsMission,
        Reason::ExceedsTargetCeiling,
        Reason::RequirementUnmet,
        Reason::ForbiddenByPolicy,
        Reason::Held,
    ] {
        let refusal = Refusal::new(reason, "b").at(Some("scope".to_owned()));
        assert_eq!(comparable(&refusal), unknown, "{reason}");
    }
}

#[test]
fn which_agents_and_missions_exist_is_never_told() {
    for reason in [
        Reason::UnknownAgent,
        Reason::AgentNotInStanding,
        Reason::UnknownMission,
    ] {
        let (_, body) = comparable(&Refusal::new(reason, "a").exact());
        assert_eq!(body.get("dayfly_reason"), None, "{reason}");
    }
}

#[test]
fn a_reason_is_told_only_when_exact() {
    for refusal in every_kind_of_refusal() {
        let (_, body) = told(&refusal);
        if !refusal.exact {
            assert_eq!(body.dayfly_reason, None);
            assert_eq!(body.at, None);
        }
    }
}

#[test]
fn descriptions_are_the_characters_that_oauth_allows() {
    for reason in Reason::ALL {
        let face = face(*reason);
        for text in [face.error, face.description] {
            assert!(
                text.bytes()
                    .all(|b| matches!(b, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e)),
                "{reason}: {text}"
            );
        }
    }
}

#[test]
fn the_detail_stays_in_the_log() {
    for refusal in every_kind_of_refusal() {
        let (_, body) = told(&refusal);
        assert!(!serde_json::to_string(&body).unwrap().contains("why"));
    }
}

#[test]
fn waiting_is_told_how_long() {
    for refusal in every_kind_of_refusal() {
        let (_, body) = told(&refusal);
        let wait = refusal.reason.retry() == Retry::After;
        let response = Refused::from(refusal).into_response();
        assert_eq!(body.retry == Retry::After, wait);
        assert_eq!(response.headers().contains_key(header::RETRY_AFTER), wait);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
    let told = Refused::from(Refusal::new(Reason::StaleView, "old").after(7)).into_response();
    assert_eq!(told.headers()[header::RETRY_AFTER], "7");
}

#[test]
fn a_401_challenges_in_the_scheme_that_was_used() {
    let answer = |reason, challenge| {
        let response = Refused::new(Refusal::new(reason, "x"), challenge).into_response();
        response.headers().get(header::WWW_AUTHENTICATE).cloned()
    };
    let basic = answer(Reason::InvalidClient, Challenge::Basic).unwrap();
    assert!(basic.to_str().unwrap().starts_with("Basic "));
    assert_eq!(answer(Reason::InvalidClient, Challenge::None), None);
    assert_eq!(answer(Reason::InvalidToken, Challenge::Basic), None);
    let bearer = answer(Reason::NotAuthenticated, Challenge::Token(true)).unwrap();
    assert!(bearer.to_str().unwrap().contains("invalid_token"));
}

#[test]
fn a_bad_proof_is_a_bad_request_at_the_token_endpoint_and_a_401_at_a_resource() {
    for (reason, error) in [
        (Reason::InvalidDpopProof, "invalid_dpop_proof"),
        (Reason::DpopProofSpent, "invalid_dpop_proof"),
        (Reason::UseDpopNonce, "use_dpop_nonce"),
        (Reason::NotAuthenticated, "invalid_token"),
    ] {
        let refusal = || Refusal::new(reason, "x");
        let response = Refused::new(refusal(), Challenge::Dpop).into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let asked = response.headers()[header::WWW_AUTHENTICATE]
            .to_str()
            .unwrap();
        let algorithms = "ES256 ES384 PS256 RS256";
        let expected =
            format!(r#"DPoP realm="dayfly", error="{error}", algs="EdDSA {algorithms}""#);
        assert_eq!(asked, expected);
        let response = Refused::from(refusal()).into_response();
        assert_eq!(response.headers().get(header::WWW_AUTHENTICATE), None);
    }
    let response = Refused::from(Refusal::new(Reason::UseDpopNonce, "x")).into_response();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    // Neither health nor rank is a matter of proof.
    for reason in [Reason::NotPermitted, Reason::StoreUnavailable] {
        let refused = Refused::new(Refusal::new(reason, "x"), Challenge::Dpop);
        let response = refused.into_response();
        assert_eq!(response.status(), face(reason).status);
        assert_eq!(response.headers().get(header::WWW_AUTHENTICATE), None);
    }
}

/// `DAYFLY_BLESS=1 cargo test --lib errors_page` writes the page.
#[test]
fn the_errors_page_says_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
    let page = errors_page();
    if std::env::var_os("DAYFLY_BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/errors.md is out of date: run the tests once with DAYFLY_BLESS=1"
    );
}

const PREFACE: &str = "\
# Errors

Every refusal of every endpoint is one JSON object, in the shape of RFC 6749 section 5.2:

```json
{
  \"error\": \"invalid_authorization_details\",
  \"error_description\": \"The request asks for more than the mission allows.\",
  \"dayfly_reason\": \"exceeds_mission\",
  \"at\": \"authorization_details[0].locations[1]\",
  \"refusal_id\": \"019e7f0a-5c1e-7d52-9a53-3f5f0f8f4a11\",
  \"retry\": \"narrow\"
}
```

- `error` and the status are the standards' own. `dayfly_reason` is Dayfly's stable code: match on it, never on the description.
- `dayfly_reason` and `at` come once the caller is known to be an agent in standing that asks within a mission of its own, and
  where the request itself is at fault. Before that, an unknown agent, a suspended agent, a mission of somebody else's and a
  denial look alike: 400 `invalid_request`, `retry` `never`. The audit always has the exact reason, under `refusal_id`;
  owners and operators ask with `dayfly explain`.
- `retry` says what to do next: `never` (the same request will not work), `narrow` (ask for less), `refresh` (with a fresh token,
  assertion or intent), `after` (the same request, after the seconds in `Retry-After`).
- A 401 carries `WWW-Authenticate` if the request used the `Authorization` header. Operators' doors answer a bad DPoP proof with 401 instead of 400.
- A refused request burns nothing: its token and intent stay good, unless the reason is `revoked_meanwhile`, `target_refused` or
  `target_unavailable`. Those come after the reservation, and the next try needs a new intent.

The table is checked against the code by a test. *Shown*: `always`; `exact` (to an agent in standing, about its own missions;
the generic face otherwise); `never` (always the generic face).

| reason | status | `error` | `retry` | shown | meaning |
|---|---|---|---|---|---|
";

fn errors_page() -> String {
    let mut page = PREFACE.to_owned();
    for reason in Reason::ALL {
        let face = face(*reason);
        let retry = serde_json::to_value(reason.retry()).unwrap();
        let shown = match face.shown {
            Shown::Always => "always",
            Shown::WhenExact => "exact",
            Shown::Never => "never",
        };
        writeln!(
            page,
            "| `{}` | {} | `{}` | `{}` | {shown} | {} |",
            reason.code(),
            face.status.as_u16(),
            face.error,
            retry.as_str().unwrap(),
            reason.meaning(),
        )
        .unwrap();
    }
    page
}
