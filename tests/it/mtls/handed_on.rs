//! Agents that act for others and show a certificate, and what is bound to one when it is handed on.

use super::*;
use crate::support::broker::{b64, sha256, without};
use crate::support::world::{EXCHANGE, JWT};

impl House {
    /// `agent` asks for whoever the subject token is of, with nothing that proves the agent.
    fn form_for(
        &self,
        subject: &str,
        agent: &str,
        mission: &str,
        client_id: Option<&str>,
    ) -> Vec<(String, String)> {
        let mut claims = self.broker.intent_claims(subject);
        for name in ["iss", "sub", "client_id"] {
            claims[name] = json!(agent);
        }
        claims["mission"]["id"] = json!(mission);
        let form = form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", subject),
            ("subject_token_type", JWT),
            ("intent", &self.broker.sign_intent(&claims)),
        ]);
        match client_id {
            Some(id) => with(form, "client_id", id),
            None => form,
        }
    }

    fn person(&self, bound_to: Option<&SigningKey>) -> String {
        self.person_with(bound_to, None)
    }

    /// The same, with a token that is bound to a certificate, too.
    fn person_with(&self, bound_to: Option<&SigningKey>, shown: Option<&Issued>) -> String {
        let now = self.broker.now();
        let nonce = bound_to.map(|key| format!("dayfly-jkt:{}", key.thumbprint()));
        let mut claims = json!({
            "iss": "https://people.example", "sub": "00u1", "aud": "dayfly-people",
            "iat": now, "exp": now + 300, "groups": ["oncall"], "nonce": nonce.unwrap_or_default(),
        });
        if let Some(shown) = shown {
            claims["cnf"] = json!({ "x5t#S256": shown.thumbprint() });
        }
        sign(&self.robot, &json!({ "alg": "ES256" }), &claims)
    }

    /// What the workload holds, bound to its SVID.
    async fn root(&self, svid: &Issued) -> String {
        let answer = self.ask(Some(svid), &self.form("checkout", Some(ID))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["access_token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actor_may_prove_itself_by_certificate() {
    let house = House::start().await;
    let person = house.person(None);
    let named = house.clients.issue(vec![dns("robot.acme.test")], AS_IT_IS);
    let svid = house.svid();
    for (shown, agent, client_id) in [
        (&house.pinned, "pinned", Some("pinned")),
        (&named, "named", Some("named")),
        (&svid, "checkout", Some(ID)),
        (&svid, "checkout", Some("checkout")),
        (&svid, "checkout", None),
    ] {
        let form = house.form_for(&person, agent, "assist", client_id);
        let answer = house.ask(Some(shown), &form).await;
        house.granted_to(shown, &answer, agent).await;
        let jwt = claims(answer.body["access_token"].as_str().unwrap());
        assert_eq!(jwt["sub"], "corp:00u1", "{agent}");
        assert_eq!(jwt["act"]["sub"], agent);
    }
    let stranger = self_signed(vec![], AS_IT_IS);
    let foreign = house.other.svid(ID, AS_IT_IS);
    for (shown, client_id, what) in [
        (&stranger, "pinned", "another certificate"),
        (&named, "pinned", "another agent's"),
        (&foreign, ID, "another trust domain's root"),
    ] {
        let form = house.form_for(&person, "pinned", "assist", Some(client_id));
        let answer = house.ask(Some(shown), &form).await;
        assert_refused(&answer, Reason::InvalidClient, what);
    }
    // Nobody's certificate is nobody's proof, and the person alone runs nothing without a key.
    let form = house.form_for(&person, "plain", "assist", Some("plain"));
    let answer = house.ask(Some(&stranger), &form).await;
    assert_refused(&answer, Reason::InvalidToken, "no proof of the agent's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_makes_no_person_of_its_agent() {
    let house = House::start().await;
    let own = key();
    let person = house.person(Some(&own));
    let in_person = |agent: &str| {
        let mut claims = house.broker.intent_claims(&person);
        for name in ["iss", "sub", "client_id"] {
            claims[name] = json!(agent);
        }
        claims["mission"]["id"] = json!("assist");
        let intent = own.sign("intent+jwt", None, &claims, true).unwrap();
        let form = house.form_for(&person, agent, "assist", Some(agent));
        with(form, "intent", &intent)
    };
    let mesh = self_signed(vec![dns("mesh.acme.test")], AS_IT_IS);
    // A certificate of nobody's is what a mesh shows on every connection.
    for shown in [None, Some(&mesh)] {
        let answer = house.ask(shown, &in_person("plain")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let token = answer.body["access_token"].as_str().unwrap();
        assert_eq!(claims(token).get("cnf"), None);
    }
    assert_eq!(house.ask(None, &in_person("pinned")).await.status, 200);
    let answer = house.ask(Some(&mesh), &in_person("pinned")).await;
    assert_refused(&answer, Reason::InvalidClient, "not its certificate");
    let svid = house.svid();
    let answer = house.ask(Some(&svid), &in_person("plain")).await;
    assert_refused(&answer, Reason::InvalidToken, "for a workload");
    // Who must be bound is, in person, too.
    let answer = house.ask(None, &in_person("bound")).await;
    assert_refused(&answer, Reason::InvalidClient, "no certificate to bind to");
    let answer = house.ask(Some(&mesh), &in_person("bound")).await;
    house.granted_to(&mesh, &answer, "bound in person").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_token_that_is_bound_to_a_certificate_goes_with_it_and_runs_nothing() {
    let house = House::start().await;
    let ask = async |shown: &Issued, person: &str, agent: &str| {
        let form = house.form_for(person, agent, "assist", Some(agent));
        house.ask(Some(shown), &form).await
    };
    let mesh = self_signed(vec![], AS_IT_IS);
    let person = house.person_with(None, Some(&house.pinned));
    let answer = ask(&house.pinned, &person, "pinned").await;
    house.granted_to(&house.pinned, &answer, "its own").await;
    let other = house.person_with(None, Some(&mesh));
    let answer = ask(&house.pinned, &other, "pinned").await;
    assert_refused(&answer, Reason::InvalidIntent, "another certificate's");
    let answer = ask(&mesh, &other, "plain").await;
    assert_refused(&answer, Reason::InvalidToken, "in person");
    let both = house.person_with(Some(&house.broker.key), Some(&mesh));
    let answer = ask(&mesh, &both, "plain").await;
    assert_refused(&answer, Reason::InvalidToken, "a certificate and a key");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bound_to_a_certificate_is_handed_on_with_it_only() {
    let house = House::start().await;
    let svid = house.svid();
    let root = house.root(&svid).await;
    let plain = || {
        let form = house.form_for(&root, "plain", "work", None);
        house.asserting("plain", &house.plain, form)
    };
    let other = house.svid();
    for (shown, what) in [(None, "no certificate"), (Some(&other), "another one")] {
        let answer = house.ask(shown, &plain()).await;
        assert_refused(&answer, Reason::ParentKeyNotProved, what);
        assert_eq!(answer.reason(), "parent_key_not_proved");
    }
    let form = house.form_for(&root, "pinned", "work", Some("pinned"));
    let answer = house.ask(Some(&house.pinned), &form).await;
    assert_refused(&answer, Reason::ParentKeyNotProved, "its own certificate");
    // Whoever has it hands it on, to itself or within its process, and the next is bound to it, too.
    let answer = house.ask(Some(&svid), &plain()).await;
    house
        .granted_to(&svid, &answer, "beside an assertion")
        .await;
    let jwt = claims(answer.body["access_token"].as_str().unwrap());
    assert_eq!(jwt["act"]["sub"], "plain");
    let form = house.form_for(&root, "checkout", "work", Some(ID));
    let answer = house.ask(Some(&svid), &form).await;
    house.granted_to(&svid, &answer, "to itself").await;
    // The hash of what is handed on is in the intent: it goes with no other.
    let next = house.root(&svid).await;
    let torn = with(form, "subject_token", &next);
    let answer = house.ask(Some(&svid), &torn).await;
    assert_refused(&answer, Reason::InvalidIntent, "another credential");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_no_second_actor() {
    let house = House::start().await;
    let person = house.person(None);
    let platform = house.broker.platform_token();
    let hash = |token: &str| json!(b64(&sha256(token.as_bytes())));
    let build = |client_id: Option<&str>| {
        let mut intent = house.broker.intent_claims(&person);
        intent["mission"]["id"] = json!("assist");
        intent["actor_token_hash"] = hash(&platform);
        let form = house.form_for(&person, "deployer", "assist", client_id);
        let form = with(form, "actor_token", &platform);
        let form = with(form, "actor_token_type", JWT);
        with(form, "intent", &house.broker.sign_intent(&intent))
    };
    // The registered certificate of one agent, and the platform's token of another.
    let answer = house.ask(Some(&house.pinned), &build(Some("pinned"))).await;
    assert_refused(&answer, Reason::UnknownAgent, "two agents");
    let unsigned = without(build(None), "intent");
    let answer = house.ask(Some(&house.pinned), &unsigned).await;
    assert_refused(&answer, Reason::InvalidIntent, "no intent");
}
