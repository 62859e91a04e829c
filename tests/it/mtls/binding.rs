//! What is bound to a certificate, and what cannot be.

use super::*;
use crate::support::world::{EXCHANGE, JWT};

const AWS: &str = "arn:aws:ecs:eu-west-1:111122223333:service/prod/checkout";

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_must_be_bound_is_given_nothing_that_cannot_be() {
    let house = House::start().await;
    let mut claims = house.broker.intent_claims("");
    for name in ["iss", "sub", "client_id"] {
        claims[name] = json!("bound");
    }
    claims["mission"]["id"] = json!("cloud");
    claims.as_object_mut().unwrap().remove("subject_token_hash");
    claims["authorization_details"] = json!([{
        "type": "aws_session", "identifier": "aws-prod",
        "actions": ["ecs:UpdateService"], "locations": [AWS],
    }]);
    let form = with(house.asserted(), "audience", "aws-prod");
    let form = with(form, "intent", &house.broker.sign_intent(&claims));
    let shown = self_signed(vec![], AS_IT_IS);
    let answer = house.ask(Some(&shown), &form).await;
    assert_refused(&answer, Reason::CredentialNotBindable, "an AWS session");
    assert_eq!(answer.reason(), "credential_not_bindable");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_names_the_certificate_that_binds() {
    let house = House::start().await;
    let svid = house.svid();
    let other = house.svid();
    for (shown, fine) in [(&svid, true), (&other, false)] {
        let mut claims = house.broker.intent_claims("");
        for name in ["iss", "sub", "client_id"] {
            claims[name] = json!("checkout");
        }
        claims["mission"]["id"] = json!("work");
        claims["cnf"] = json!({ "x5t#S256": svid.thumbprint() });
        claims.as_object_mut().unwrap().remove("subject_token_hash");
        let form = house.form("checkout", Some(ID));
        let form = with(form, "intent", &house.broker.sign_intent(&claims));
        let answer = house.ask(Some(shown), &form).await;
        if fine {
            house.granted_to(&svid, &answer, "named").await;
        } else {
            assert_refused(&answer, Reason::InvalidIntent, "another certificate");
        }
    }
}

/// A key that is registered for an agent signs for all of its identities: the intent of one is worth nothing
/// beside the SVID of another.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_several_identities_says_which_certificate_its_intent_goes_with() {
    let house = House::start().await;
    let one = house.acme.svid("spiffe://acme.test/runner/a", AS_IT_IS);
    let other = house.acme.svid("spiffe://acme.test/runner/b", AS_IT_IS);
    for (named, shown, fine) in [
        (Some(&one), &one, true),
        (None, &one, false),
        (Some(&one), &other, false),
    ] {
        let mut claims = house.broker.intent_claims("");
        for name in ["iss", "sub", "client_id"] {
            claims[name] = json!("runners");
        }
        claims["mission"]["id"] = json!("work");
        if let Some(named) = named {
            claims["cnf"] = json!({ "x5t#S256": named.thumbprint() });
        }
        claims.as_object_mut().unwrap().remove("subject_token_hash");
        let form = house.form("runners", Some("runners"));
        let form = with(form, "intent", &house.broker.sign_intent(&claims));
        let answer = house.ask(Some(shown), &form).await;
        if fine {
            house.granted_to(&one, &answer, "named").await;
        } else {
            assert_refused(&answer, Reason::InvalidIntent, "not named, or another");
        }
    }
}

/// An intent that names the agent's own key would bind to that, and the request shows something else.
#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_names_a_key_goes_with_no_certificate() {
    let house = House::start().await;
    let svid = house.svid();
    let mut claims = house.broker.intent_claims("");
    for name in ["iss", "sub", "client_id"] {
        claims[name] = json!("checkout");
    }
    claims["mission"]["id"] = json!("work");
    claims["cnf"] = json!({ "jkt": house.broker.key.thumbprint() });
    claims.as_object_mut().unwrap().remove("subject_token_hash");
    let form = house.form("checkout", Some(ID));
    let form = with(form, "intent", &house.broker.sign_intent(&claims));
    let answer = house.ask(Some(&svid), &form).await;
    assert_refused(&answer, Reason::InvalidIntent, "a key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_beside_a_platforms_token_counts_where_client_id_says_so() {
    let house = House::start().await;
    let ask = async |shown: &Issued, client_id: Option<&str>| {
        let claims = spoiled(&house.broker.platform_claims(), "sub", json!("both"));
        let token = house.broker.issuer.sign(&claims);
        let mut claims = house.broker.intent_claims(&token);
        for name in ["iss", "sub", "client_id"] {
            claims[name] = json!("both");
        }
        claims["mission"]["id"] = json!("work");
        let form = form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", &token),
            ("subject_token_type", JWT),
            ("intent", &house.broker.sign_intent(&claims)),
        ]);
        let form = match client_id {
            Some(id) => with(form, "client_id", id),
            None => form,
        };
        house.ask(Some(shown), &form).await
    };
    let own = house.clients.issue(vec![dns("both.acme.test")], AS_IT_IS);
    let answer = ask(&own, Some("both")).await;
    house.granted_to(&own, &answer, "as its client").await;
    let answer = ask(&own, None).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().unwrap();
    assert_eq!(claims(token).get("cnf"), None, "as a mesh shows one");
    let answer = ask(&house.pinned, Some("both")).await;
    assert_refused(&answer, Reason::InvalidClient, "another certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_must_be_bound_to_its_certificate_is_not_bound_to_a_key_instead() {
    let house = House::start().await;
    let shown = self_signed(vec![], AS_IT_IS);
    let http = house.http(Some(&shown));
    let proof = house.broker.proof(&key()).await;
    let request = http.post(format!("{}/token", house.broker.at));
    let request = request.header("DPoP", proof).form(&house.asserted());
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_refused(&answer, Reason::InvalidClient, "a key and a certificate");
}
