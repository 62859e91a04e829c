//! Resource servers that show a certificate at `POST /introspect`.

use super::*;
use crate::support::broker::SERVER_SECRET;

impl House {
    /// A token of the pinned agent's.
    async fn token(&self) -> String {
        let form = self.form("pinned", Some("pinned"));
        let answer = self.ask(Some(&self.pinned), &form).await;
        answer.body["access_token"].as_str().unwrap().to_owned()
    }

    async fn introspected(
        &self,
        shown: Option<&Issued>,
        token: &str,
        client_id: Option<&str>,
        basic: Option<(&str, &str)>,
    ) -> Answer {
        let mut fields = form(&[("token", token)]);
        if let Some(id) = client_id {
            fields = with(fields, "client_id", id);
        }
        let url = format!("{}/introspect", self.broker.at);
        let mut request = self.http(shown).post(url).form(&fields);
        if let Some((name, secret)) = basic {
            request = request.basic_auth(name, Some(secret));
        }
        Answer::of(request.send().await.unwrap()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_is_known_by_its_certificate_and_no_other() {
    let house = House::start().await;
    let token = house.token().await;
    let api = vec![dns("api.acme.test")];
    let own = house.clients.issue(api.clone(), AS_IT_IS);
    for (shown, name) in [(&own, "api"), (&house.pinned, "pinned-api")] {
        let answer = house
            .introspected(Some(shown), &token, Some(name), None)
            .await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert_eq!(answer.body["active"], true, "{name}");
    }
    let robot = house.clients.issue(vec![dns("robot.acme.test")], AS_IT_IS);
    let elsewhere = house.acme.issue(api.clone(), AS_IT_IS);
    let alone = self_signed(api, AS_IT_IS);
    let svid = house.svid();
    for (shown, client_id, what) in [
        (None, Some("api"), "no certificate"),
        (Some(&own), None, "no client_id"),
        (Some(&own), Some("pinned-api"), "another's name"),
        (Some(&own), Some("deploy-api"), "one that has a secret"),
        (Some(&own), Some("nobody"), "an unknown client"),
        (Some(&robot), Some("api"), "an agent's of the same CA"),
        (Some(&robot), Some("named"), "an agent"),
        (Some(&elsewhere), Some("api"), "another CA"),
        (Some(&alone), Some("api"), "its own word"),
        (Some(&svid), Some(ID), "a workload"),
        (Some(&svid), None, "a workload without a name"),
    ] {
        let answer = house.introspected(shown, &token, client_id, None).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.body);
        assert_eq!(answer.error(), "invalid_client", "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_makes_no_bad_secret_good() {
    let house = House::start().await;
    let token = house.token().await;
    let own = house.clients.issue(vec![dns("api.acme.test")], AS_IT_IS);
    let ask = |name: &'static str, secret: &'static str| {
        house.introspected(Some(&own), &token, Some("api"), Some((name, secret)))
    };
    assert_eq!(ask("api", "guessed").await.status, 401);
    assert_eq!(ask("deploy-api", "guessed").await.status, 401);
    // As on every connection of a service mesh.
    assert_eq!(ask("deploy-api", SERVER_SECRET).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_servers_certificate_may_come_through_the_proxy() {
    let house = House::proxied(PROXIED).await;
    let own = house.clients.issue(vec![dns("api.acme.test")], AS_IT_IS);
    let answer = async |client_id: &str| {
        let url = format!("{}/introspect", house.broker.at);
        let form = form(&[("token", "x"), ("client_id", client_id)]);
        let request = house.broker.http.post(url).form(&form);
        let request = request.header("Client-Cert", header(&own));
        Answer::of(request.send().await.unwrap()).await
    };
    assert_eq!(answer("api").await.status, 200);
    assert_eq!(answer("pinned-api").await.status, 401);
}
