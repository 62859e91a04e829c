//! JWT-SVIDs, each spoiled in one thing.

use super::*;

pub(super) const DOMAIN: &str = "acme.test";
pub(super) const ID: &str = "spiffe://acme.test/ns/shop/sa/checkout";

/// One broker, two trust domains, one key for each and a CA's key in the bundle of the first.
struct Svids {
    identity: Identity,
    key: Signer,
    ca: Signer,
    other: Signer,
    _folder: tempfile::TempDir,
}

fn entry(signer: &Signer, purpose: &str) -> Value {
    let mut jwk = signer.jwk();
    jwk["use"] = json!(purpose);
    if purpose == "x509-svid" {
        jwk["x5c"] = json!(["cm9vdA=="]);
    }
    jwk
}

pub(super) fn domain(name: &str, path: std::path::PathBuf) -> TrustDomainSettings {
    TrustDomainSettings {
        id: name.parse().unwrap(),
        domain: name.to_owned(),
        bundle: BundleSource::File(path),
        audiences: vec![BROKER.to_owned()],
        single_use: false,
        max_lifetime: Duration::from_secs(3600),
    }
}

impl Svids {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut TrustDomainSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (key, ca, other) = (
            Signer::es256("jwt-1"),
            Signer::es256("ca-1"),
            Signer::es256("jwt-1"),
        );
        let write = |name: &str, keys: &[Value]| {
            let path = folder.path().join(name);
            std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
            domain(name, path)
        };
        let mut ours = write(DOMAIN, &[entry(&ca, "x509-svid"), entry(&key, "jwt-svid")]);
        let theirs = write("other.test", &[entry(&other, "jwt-svid")]);
        change(&mut ours);
        let platform = Signer::rs256("platform-1");
        let issuers = vec![issuer("kubernetes", CLUSTER, &platform)];
        let recognised = Recognised {
            issuers,
            trust_domains: vec![ours, theirs],
            ..Recognised::default()
        };
        let identity = Identity::of(recognised, BROKER.to_owned(), &fetcher());
        Self {
            identity: identity.unwrap(),
            key,
            ca,
            other,
            _folder: folder,
        }
    }

    async fn token(&self, text: &str) -> Result<Caller, IdentityError> {
        self.identity.verify(&subject(text), at(0)).await
    }

    async fn assertion(&self, text: &str) -> Result<Caller, IdentityError> {
        self.identity.verify(&svid(text), at(0)).await
    }

    /// Both ways of presenting it are refused for the same reason.
    async fn fault(&self, text: &str) -> TokenFault {
        let fault = token_fault(self.token(text).await);
        let asserted = client_fault(self.assertion(text).await);
        match (&fault, asserted) {
            (TokenFault::Jose(one), ClientFault::Jose(other)) => assert_eq!(*one, other),
            (TokenFault::UnknownIssuer, ClientFault::TrustDomain) => {}
            (one, ClientFault::Svid(other)) => assert_eq!(*one, other),
            (one, other) => panic!("{one} as a token, {other} as an assertion"),
        }
        fault
    }
}

fn svid(text: &str) -> Presented {
    Presented {
        client_svid: Some(Secret::new(text.to_owned())),
        ..Presented::default()
    }
}

/// As SPIRE issues them.
fn claims() -> Value {
    json!({ "sub": ID, "aud": [BROKER], "exp": NOW + 300, "iat": NOW })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[tokio::test]
async fn a_workload_is_who_its_trust_domain_says_it_is() {
    let svids = Svids::new();
    let text = svids.key.sign(&json!({"typ": "JWT"}), &claims());
    for caller in [svids.token(&text).await, svids.assertion(&text).await] {
        let caller = caller.unwrap();
        assert_eq!(caller.subject(), ID);
        assert_eq!(caller.issuer().as_str(), DOMAIN);
        assert_eq!(caller.issuer_url(), "spiffe://acme.test");
        assert_eq!(caller.proof(), Proof::WorkloadToken);
        assert_eq!(caller.issuer_key(), svids.key.thumbprint());
        assert_eq!(caller.facts()["spiffe.id"], ID);
        assert_eq!(caller.facts()["spiffe.trust_domain"], DOMAIN);
        assert_eq!(caller.bound_key(), None);
        assert!(
            caller.replay().is_empty(),
            "SPIRE hands out the same one again"
        );
    }
}

#[tokio::test]
async fn the_typ_of_a_jwt_svid_is_jwt_jose_or_absent() {
    let svids = Svids::new();
    for typ in [json!(null), json!("JWT"), json!("JOSE")] {
        let text = svids.key.sign(&json!({"typ": typ}), &claims());
        assert!(svids.token(&text).await.is_ok(), "{typ}");
    }
    for typ in [
        "at+jwt",
        "intent+jwt",
        "client-authentication+jwt",
        "dpop+jwt",
    ] {
        let text = svids.key.sign(&json!({"typ": typ}), &claims());
        assert_eq!(svids.fault(&text).await, JoseError::Typ.into(), "{typ}");
    }
    let mut presented = subject(&svids.key.sign(&json!({}), &claims()));
    presented.subject_token.as_mut().unwrap().token_type = TokenType::AccessToken;
    let refused = svids.identity.verify(&presented, at(0)).await;
    assert_eq!(token_fault(refused), JoseError::Typ.into());
}

/// Each line spoils one claim of an SVID that is otherwise good.
#[tokio::test]
async fn one_wrong_claim_of_an_svid_is_enough() {
    let svids = Svids::new();
    let unknown = TokenFault::UnknownIssuer;
    let missing = |name| TokenFault::Jose(JoseError::ClaimMissing(name));
    for (name, value, expected) in [
        (
            "sub",
            json!("spiffe://third.test/ns/shop/sa/checkout"),
            unknown,
        ),
        (
            "sub",
            json!("spiffe://acme.test"),
            TokenFault::UnknownIssuer,
        ),
        (
            "sub",
            json!("spiffe://acme.test/"),
            TokenFault::UnknownIssuer,
        ),
        (
            "sub",
            json!("spiffe://acme.test/a/../b"),
            TokenFault::UnknownIssuer,
        ),
        (
            "sub",
            json!("SPIFFE://acme.test/a"),
            TokenFault::UnknownIssuer,
        ),
        ("sub", json!("checkout"), TokenFault::UnknownIssuer),
        ("sub", json!([ID]), TokenFault::UnknownIssuer),
        ("aud", json!("https://other.example"), TokenFault::Audience),
        ("aud", json!([]), TokenFault::Audience),
        ("aud", json!(null), TokenFault::Audience),
        ("exp", json!(NOW - 60), JoseError::Expired.into()),
        ("exp", json!(NOW + 3601), JoseError::LivesTooLong.into()),
        (
            "exp",
            json!("soon"),
            JoseError::ClaimMalformed("exp").into(),
        ),
        ("iat", json!(NOW + 61), JoseError::NotYetValid.into()),
        ("nbf", json!(NOW + 61), JoseError::NotYetValid.into()),
        ("jti", json!(7), TokenFault::TokenId),
        ("cnf", json!({"jwk": {}}), TokenFault::BoundKey),
    ] {
        let text = svids.key.sign(&json!({}), &with(name, value.clone()));
        assert_eq!(svids.fault(&text).await, expected, "{name} {value}");
    }
    let mut without = claims();
    without.as_object_mut().unwrap().remove("exp");
    let text = svids.key.sign(&json!({}), &without);
    assert_eq!(svids.fault(&text).await, missing("exp"));
}

#[tokio::test]
async fn only_the_jwt_keys_of_its_own_trust_domain_verify_an_svid() {
    let svids = Svids::new();
    // Another trust domain's key of the very same name.
    let text = svids.other.sign(&json!({}), &claims());
    assert_eq!(svids.fault(&text).await, JoseError::Signature.into());
    // The key of a certificate authority in the same bundle, by its name, by ours and by none.
    let text = svids.ca.sign(&json!({}), &claims());
    assert_eq!(svids.fault(&text).await, TokenFault::UnknownKey);
    for kid in [json!("jwt-1"), json!(null)] {
        let text = svids.ca.sign(&json!({"kid": kid}), &claims());
        assert_eq!(
            svids.fault(&text).await,
            JoseError::Signature.into(),
            "{kid}"
        );
    }
    // A good key of one trust domain speaks for no workload of the other.
    let foreign = with("sub", json!("spiffe://other.test/ns/shop/sa/checkout"));
    let text = svids.key.sign(&json!({}), &foreign);
    assert_eq!(svids.fault(&text).await, JoseError::Signature.into());
    // Without a `kid`, the keys of that algorithm are tried.
    let text = svids.key.sign(&json!({"kid": null}), &claims());
    assert!(svids.token(&text).await.is_ok());
}

#[tokio::test]
async fn an_svid_of_a_configured_issuer_is_that_issuers_affair() {
    let svids = Svids::new();
    let text = svids.key.sign(&json!({}), &with("iss", json!(CLUSTER)));
    let refused = token_fault(svids.token(&text).await);
    assert_eq!(refused, TokenFault::UnknownKey);
    // An issuer that is not configured says nothing: SPIRE puts its own name there.
    let text = svids
        .key
        .sign(&json!({}), &with("iss", json!("https://spire.acme.test")));
    assert_eq!(svids.token(&text).await.unwrap().subject(), ID);
}

#[tokio::test]
async fn a_client_assertion_is_for_this_broker_alone() {
    let svids = Svids::new();
    let both = json!([BROKER, "https://other.example"]);
    let text = svids.key.sign(&json!({}), &with("aud", both));
    assert!(svids.token(&text).await.is_ok());
    let refused = client_fault(svids.assertion(&text).await);
    assert_eq!(refused, ClientFault::Svid(TokenFault::Audience));
    for audience in [
        json!(format!("{BROKER}/token")),
        json!(format!("{BROKER}/")),
    ] {
        let text = svids.key.sign(&json!({}), &with("aud", audience.clone()));
        let refused = client_fault(svids.assertion(&text).await);
        assert_eq!(
            refused,
            ClientFault::Svid(TokenFault::Audience),
            "{audience}"
        );
    }
}

#[tokio::test]
async fn the_audience_binds_a_key() {
    let svids = Svids::new();
    let key = Signer::es256("own").thumbprint();
    let audience = json!([format!("{BROKER}#jkt={key}")]);
    let text = svids.key.sign(&json!({}), &with("aud", audience));
    let caller = svids.token(&text).await.unwrap();
    assert_eq!(caller.bound_key(), Some(&Confirmation::Jkt(key)));
}

#[tokio::test]
async fn a_client_id_is_the_spiffe_id_or_a_name_for_the_registry() {
    let svids = Svids::new();
    let text = svids.key.sign(&json!({}), &claims());
    for presented in [svid(&text), subject(&text)] {
        let named = |client_id: &str| Presented {
            client_id: Some(client_id.to_owned()),
            ..presented.clone()
        };
        let caller = svids.identity.verify(&named(ID), at(0)).await.unwrap();
        assert_eq!(caller.named_client(), None);
        let caller = svids.identity.verify(&named(AGENT), at(0)).await.unwrap();
        assert_eq!(caller.named_client(), Some(AGENT));
        for other in [
            "spiffe://acme.test/ns/shop/sa/other",
            "SPIFFE://acme.test/x",
        ] {
            let refused = svids.identity.verify(&named(other), at(0)).await;
            assert_eq!(client_fault(refused), ClientFault::OtherClient, "{other}");
        }
    }
}

#[tokio::test]
async fn an_svid_beside_a_subject_token_is_kept_for_the_registry() {
    let svids = Svids::new();
    let platform = Signer::rs256("platform-1");
    let token = tokens::kubernetes(NOW, CLUSTER, BROKER);
    let mut presented = subject(&platform.sign(&json!({}), &token));
    presented.client_svid = Some(Secret::new(svids.key.sign(&json!({}), &claims())));
    let caller = svids.identity.verify(&presented, at(0)).await.unwrap();
    assert_eq!(caller.issuer().as_str(), "kubernetes");
    assert_eq!(caller.beside().unwrap().subject(), ID);
    let bad = with("exp", json!(NOW - 60));
    presented.client_svid = Some(Secret::new(svids.key.sign(&json!({}), &bad)));
    let refused = client_fault(svids.identity.verify(&presented, at(0)).await);
    assert_eq!(refused, ClientFault::Svid(JoseError::Expired.into()));
}

#[tokio::test]
async fn where_it_is_single_use_an_svid_is_spent() {
    let svids = Svids::with(|domain| domain.single_use = true);
    let text = svids.key.sign(&json!({}), &with("jti", json!("one")));
    assert_eq!(svids.token(&text).await.unwrap().replay().len(), 1);
}

#[tokio::test]
async fn without_a_bundle_nobody_is_let_in() {
    let svids = Svids::with(|domain| domain.bundle = BundleSource::File("/nowhere".into()));
    let text = svids.key.sign(&json!({}), &claims());
    for refused in [svids.token(&text).await, svids.assertion(&text).await] {
        let unavailable = matches!(refused, Err(IdentityError::Unavailable { .. }));
        assert!(unavailable, "{refused:?}");
    }
}

#[test]
fn what_a_trust_domain_may_not_be() {
    let build = |domains: Vec<TrustDomainSettings>| {
        let recognised = Recognised {
            trust_domains: domains,
            ..Recognised::default()
        };
        Identity::of(recognised, BROKER.to_owned(), &fetcher())
    };
    let good = || domain(DOMAIN, "bundle.json".into());
    assert!(build(vec![good()]).is_ok());
    for change in [
        (|d| d.domain = "Acme.test".to_owned()) as fn(&mut TrustDomainSettings),
        |d| d.domain = "acme.test/path".to_owned(),
        |d| d.id = IssuerId::client(),
        |d| d.audiences = vec![],
        |d| d.audiences = vec![format!("{BROKER}#jkt=x")],
        |d| d.max_lifetime = Duration::ZERO,
        |d| {
            d.bundle = BundleSource::Endpoint {
                url: "http://bundles.acme.test".to_owned(),
                ca: None,
            }
        },
        |d| {
            d.bundle = BundleSource::Endpoint {
                url: "https://169.254.169.254/".to_owned(),
                ca: None,
            }
        },
    ] {
        let mut spoiled = good();
        change(&mut spoiled);
        assert!(build(vec![spoiled.clone()]).is_err(), "{spoiled:?}");
    }
    let same = build(vec![good(), good()]).unwrap_err();
    assert_eq!(
        same,
        SettingsError::SameUrl("spiffe://acme.test".to_owned())
    );
}
