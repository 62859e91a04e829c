//! X.509-SVIDs and registered certificates, each spoiled in one thing. What the handshake proves is
//! taken as proved here.

use super::super::certificates::{AS_IT_IS, Authority, Change, Issued, dns, self_signed, uri};
use super::spiffe::{DOMAIN, ID, domain};
use super::*;
use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa};
use rcgen::{KeyUsagePurpose, SanType};

/// A broker that knows two trust domains, and agents by certificate.
struct Doors {
    identity: Identity,
    acme: Authority,
    other: Authority,
    ca: Authority,
    own: Issued,
    _folder: tempfile::TempDir,
}

/// With a validity around the tests' present.
fn timely(params: &mut CertificateParams) {
    params.not_before = at(-3600);
    params.not_after = at(3600);
}

fn timely_and(change: Change<'_>) -> impl Fn(&mut CertificateParams) {
    move |params| {
        timely(params);
        change(params);
    }
}

fn issued_to(agent: &str, ca: &Authority, name: CertificateName) -> CertificateSettings {
    CertificateSettings {
        agent: agent.parse().unwrap(),
        rule: CertificateRule::Issued {
            roots: vec![ca.root.clone()],
            name,
        },
    }
}

impl Doors {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (acme, other, ca) = (
            Authority::root("acme root"),
            // The same name, another key.
            Authority::root("acme root"),
            Authority::root("clients' root"),
        );
        let bundle = |name: &str, root: &Authority| {
            let der = base64::engine::general_purpose::STANDARD.encode(&root.root);
            let entry = json!({"kty": "EC", "use": "x509-svid", "x5c": [der]});
            let path = folder.path().join(name);
            std::fs::write(&path, json!({ "keys": [entry] }).to_string()).unwrap();
            domain(name, path)
        };
        let own = self_signed(vec![], &timely);
        let registered = CertificateSettings {
            agent: "pinned".parse().unwrap(),
            rule: CertificateRule::Registered(vec![own.thumbprint()]),
        };
        let subject = "CN=Robot \\\"9\\\"\\, Ltd,O=Acme".to_owned();
        let recognised = Recognised {
            trust_domains: vec![bundle(DOMAIN, &acme), bundle("other.test", &other)],
            certificates: vec![
                registered,
                issued_to(
                    "dns",
                    &ca,
                    CertificateName::Dns("robot.acme.test".to_owned()),
                ),
                issued_to(
                    "uri",
                    &ca,
                    CertificateName::Uri("urn:acme:robot".to_owned()),
                ),
                issued_to("ip", &ca, CertificateName::Ip("192.0.2.7".parse().unwrap())),
                issued_to(
                    "email",
                    &ca,
                    CertificateName::Email("robot@acme.test".to_owned()),
                ),
                issued_to("subject", &ca, CertificateName::SubjectDn(subject)),
            ],
            ..Recognised::default()
        };
        Self {
            identity: Identity::of(recognised, BROKER.to_owned(), &fetcher()).unwrap(),
            acme,
            other,
            ca,
            own,
            _folder: folder,
        }
    }

    async fn show(&self, issued: &Issued, named: Option<&str>) -> Result<Caller, IdentityError> {
        let presented = Presented {
            certificate: Some(certificate(issued)),
            client_id: named.map(str::to_owned),
            ..Presented::default()
        };
        self.identity.verify(&presented, at(0)).await
    }

    async fn svid_fault(&self, change: Change<'_>) -> CertificateFault {
        let svid = self.acme.svid(ID, &timely_and(change));
        certificate_fault(self.show(&svid, Some(ID)).await)
    }
}

fn certificate(issued: &Issued) -> ClientCertificate {
    ClientCertificate::new(issued.chain.clone()).unwrap()
}

fn certificate_fault(result: Result<Caller, IdentityError>) -> CertificateFault {
    match client_fault(result) {
        ClientFault::Certificate(fault) => fault,
        other => panic!("expected a bad certificate, got {other}"),
    }
}

#[tokio::test]
async fn a_workload_is_who_its_certificate_says_and_its_trust_domain_vouches_for() {
    let doors = Doors::new();
    let between = doors.acme.intermediate("downstream", &timely);
    for svid in [doors.acme.svid(ID, &timely), between.svid(ID, &timely)] {
        for named in [None, Some(ID)] {
            let caller = doors.show(&svid, named).await.unwrap();
            assert_eq!(caller.subject(), ID);
            assert_eq!(caller.issuer().as_str(), DOMAIN);
            assert_eq!(caller.proof(), Proof::Svid);
            assert_eq!(caller.facts()["spiffe.id"], ID);
            assert_eq!(caller.expires_at(), at(3600));
            let bound = Confirmation::X5t(svid.thumbprint());
            assert_eq!(caller.bound_key(), None);
            assert_eq!(caller.proved_key(), Some(&bound));
        }
        let caller = doors.show(&svid, Some(AGENT)).await.unwrap();
        assert_eq!(caller.named_client(), Some(AGENT));
    }
}

/// Each line spoils one thing of a certificate that is otherwise good.
#[tokio::test]
async fn one_wrong_thing_of_an_x509_svid_is_enough() {
    let doors = Doors::new();
    let usage = |usages: &'static [KeyUsagePurpose]| {
        move |params: &mut CertificateParams| params.key_usages = usages.to_vec()
    };
    let names = |names: Vec<SanType>| {
        move |params: &mut CertificateParams| params.subject_alt_names = names.clone()
    };
    use KeyUsagePurpose as U;
    for (change, expected) in [
        (
            &names(vec![uri(ID), uri("spiffe://acme.test/other")]) as Change<'_>,
            CertificateFault::SpiffeId,
        ),
        (
            &names(vec![uri(ID), uri("urn:x")]),
            CertificateFault::SpiffeId,
        ),
        (&names(vec![uri(ID), uri(ID)]), CertificateFault::SpiffeId),
        (&names(vec![]), CertificateFault::SpiffeId),
        (
            &names(vec![uri("spiffe://acme.test")]),
            CertificateFault::SpiffeId,
        ),
        (
            &names(vec![uri("https://acme.test/x")]),
            CertificateFault::SpiffeId,
        ),
        (
            &names(vec![uri("spiffe://third.test/x")]),
            CertificateFault::TrustDomain,
        ),
        (
            &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            CertificateFault::IsAuthority,
        ),
        (&usage(&[]), CertificateFault::KeyUsage),
        (&usage(&[U::KeyAgreement]), CertificateFault::KeyUsage),
        (
            &usage(&[U::DigitalSignature, U::KeyCertSign]),
            CertificateFault::KeyUsage,
        ),
        (
            &usage(&[U::DigitalSignature, U::CrlSign]),
            CertificateFault::KeyUsage,
        ),
        (
            &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            CertificateFault::ExtendedKeyUsage,
        ),
        (
            &|params| params.not_after = at(-1),
            CertificateFault::Expired,
        ),
        (
            &|params| params.not_before = at(1),
            CertificateFault::Expired,
        ),
    ] {
        assert_eq!(doors.svid_fault(change).await, expected);
    }
    // Names of other kinds beside it are no second identity.
    let beside = names(vec![uri(ID), dns("checkout.acme.test")]);
    let svid = doors.acme.svid(ID, &timely_and(&beside));
    assert!(doors.show(&svid, Some(ID)).await.is_ok());
}

#[tokio::test]
async fn only_roots_of_its_own_trust_domain_vouch_for_an_svid() {
    let doors = Doors::new();
    let foreign = doors.other.svid(ID, &timely);
    let fault = certificate_fault(doors.show(&foreign, Some(ID)).await);
    assert_eq!(
        fault,
        CertificateFault::Issuer,
        "another trust domain's root"
    );
    let theirs = doors.acme.svid("spiffe://other.test/x", &timely);
    let fault = certificate_fault(doors.show(&theirs, None).await);
    assert_eq!(fault, CertificateFault::Issuer, "ours, for one of theirs");
    let registered = doors.ca.svid(ID, &timely);
    let fault = certificate_fault(doors.show(&registered, Some(ID)).await);
    assert_eq!(
        fault,
        CertificateFault::Issuer,
        "the CA of registered clients"
    );
    let alone = self_signed(vec![uri(ID)], &timely);
    let fault = certificate_fault(doors.show(&alone, Some(ID)).await);
    assert_eq!(
        fault,
        CertificateFault::Issuer,
        "its own word, the right name"
    );
    // The root beside it changes nothing: what is sent vouches for nobody.
    let stranger = Authority::root("acme root");
    let mut with_root = stranger.svid(ID, &timely);
    with_root.chain.push(stranger.root.clone());
    let fault = certificate_fault(doors.show(&with_root, Some(ID)).await);
    assert_eq!(fault, CertificateFault::Issuer);
    let mut with_ours = stranger.svid(ID, &timely);
    with_ours.chain.push(doors.acme.root.clone());
    let fault = certificate_fault(doors.show(&with_ours, Some(ID)).await);
    assert_eq!(fault, CertificateFault::Issuer);
}

#[tokio::test]
async fn whoever_issues_must_be_an_authority() {
    let doors = Doors::new();
    for (change, expected) in [
        (
            &(|params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa) as Change<'_>,
            CertificateFault::Authority,
        ),
        (
            &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            CertificateFault::Authority,
        ),
        (
            &|params| params.not_after = at(-1),
            CertificateFault::Expired,
        ),
    ] {
        let between = doors.acme.intermediate("between", &timely_and(change));
        let svid = between.svid(ID, &timely);
        assert_eq!(
            certificate_fault(doors.show(&svid, Some(ID)).await),
            expected
        );
    }
    // How far down an authority may be, its issuer says: not even one more below this.
    let last: Change<'_> = &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let between = doors.acme.intermediate("last", &timely_and(last));
    assert!(
        doors
            .show(&between.svid(ID, &timely), Some(ID))
            .await
            .is_ok()
    );
    let below = between.intermediate("one too many", &timely);
    let fault = doors.show(&below.svid(ID, &timely), Some(ID)).await;
    assert_eq!(certificate_fault(fault), CertificateFault::Authority);
    // A workload's own certificate makes no second workload.
    let between = doors.acme.intermediate("between", &timely);
    let mut torn = between.svid(ID, &timely);
    torn.chain.truncate(1);
    let fault = certificate_fault(doors.show(&torn, Some(ID)).await);
    assert_eq!(
        fault,
        CertificateFault::Issuer,
        "the intermediate is missing"
    );
}

#[tokio::test]
async fn a_root_vouches_in_its_time_only() {
    for (change, expected) in [
        (
            &(|params: &mut CertificateParams| params.not_after = at(-1)) as Change<'_>,
            Err(CertificateFault::Expired),
        ),
        (
            &|params| params.not_before = at(1),
            Err(CertificateFault::Expired),
        ),
        (&|_| {}, Ok(())),
    ] {
        let ca = Authority::root_with("root", &timely_and(change));
        let recognised = Recognised {
            certificates: vec![issued_to(
                "dns",
                &ca,
                CertificateName::Dns("a.test".to_owned()),
            )],
            ..Recognised::default()
        };
        let identity = Identity::of(recognised, BROKER.to_owned(), &fetcher()).unwrap();
        let presented = Presented {
            certificate: Some(certificate(&ca.issue(vec![dns("a.test")], &timely))),
            client_id: Some("dns".to_owned()),
            ..Presented::default()
        };
        let shown = identity.verify(&presented, at(0)).await;
        match expected {
            Ok(()) => assert!(shown.is_ok(), "{shown:?}"),
            Err(fault) => assert_eq!(certificate_fault(shown), fault),
        }
    }
}

#[tokio::test]
async fn the_client_id_is_the_certificates_own() {
    let doors = Doors::new();
    let svid = doors.acme.svid(ID, &timely);
    for other in [
        "spiffe://acme.test/ns/shop/sa/other",
        "SPIFFE://acme.test/ns/shop/sa/checkout",
    ] {
        let refused = client_fault(doors.show(&svid, Some(other)).await);
        assert_eq!(refused, ClientFault::OtherClient, "{other}");
    }
    let plain = doors.ca.issue(vec![dns("robot.acme.test")], &timely);
    let refused = certificate_fault(doors.show(&plain, None).await);
    assert_eq!(refused, CertificateFault::NoClientId);
    let refused = client_fault(doors.show(&plain, Some("nobody")).await);
    assert_eq!(refused, ClientFault::UnknownClient);
    let refused = certificate_fault(doors.show(&plain, Some(ID)).await);
    assert_eq!(refused, CertificateFault::SpiffeId);
}

/// Names that are registered for agents of the same name.
fn good_names() -> [(&'static str, Vec<SanType>); 4] {
    let email = SanType::Rfc822Name("robot@acme.test".try_into().unwrap());
    [
        ("dns", vec![dns("other.acme.test"), dns("Robot.Acme.test")]),
        ("uri", vec![uri("urn:acme:robot")]),
        ("ip", vec![SanType::IpAddress("192.0.2.7".parse().unwrap())]),
        ("email", vec![email]),
    ]
}

#[tokio::test]
async fn an_agent_is_known_by_the_name_its_ca_certified() {
    let doors = Doors::new();
    for (agent, names) in good_names() {
        let issued = doors.ca.issue(names, &timely);
        let caller = doors.show(&issued, Some(agent)).await.unwrap();
        assert_eq!(caller.proof(), Proof::ClientCertificate);
        assert_eq!(caller.issuer(), &IssuerId::client());
        assert_eq!(caller.client().unwrap().as_str(), agent);
        assert_eq!(
            caller.proved_key(),
            Some(&Confirmation::X5t(issued.thumbprint()))
        );
        // Of the right CA, under another agent's name.
        for (other, _) in good_names().iter().filter(|(other, _)| *other != agent) {
            let refused = certificate_fault(doors.show(&issued, Some(other)).await);
            assert_eq!(refused, CertificateFault::Name, "{agent} as {other}");
        }
    }
    let named = |value: &'static str| {
        move |params: &mut CertificateParams| {
            timely(params);
            params.distinguished_name = rcgen::DistinguishedName::new();
            let names = &mut params.distinguished_name;
            names.push(DnType::OrganizationName, "Acme");
            names.push(DnType::CommonName, value);
        }
    };
    let issued = doors.ca.issue(vec![], &named("Robot \"9\", Ltd"));
    assert!(doors.show(&issued, Some("subject")).await.is_ok());
    for other in [
        "Robot \"9\", Ltd,O=Acme",
        "Robot",
        "robot \"9\", ltd",
        " Robot \"9\", Ltd",
    ] {
        let issued = doors.ca.issue(vec![], &named(other));
        let refused = certificate_fault(doors.show(&issued, Some("subject")).await);
        assert_eq!(refused, CertificateFault::Name, "{other}");
    }
}

#[tokio::test]
async fn one_wrong_thing_of_a_registered_name_is_enough() {
    let doors = Doors::new();
    let name = || vec![dns("robot.acme.test")];
    let shown = |issued: Issued| {
        let doors = &doors;
        async move { certificate_fault(doors.show(&issued, Some("dns")).await) }
    };
    for (change, expected) in [
        (
            &(|params: &mut CertificateParams| {
                params.subject_alt_names = vec![dns("robot2.acme.test")];
            }) as Change<'_>,
            CertificateFault::Name,
        ),
        (
            &|params| params.subject_alt_names = vec![dns("*.acme.test")],
            CertificateFault::Name,
        ),
        (
            &|params| params.subject_alt_names = vec![uri("robot.acme.test")],
            CertificateFault::Name,
        ),
        (
            &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            CertificateFault::IsAuthority,
        ),
        (
            &|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            CertificateFault::KeyUsage,
        ),
        (
            &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            CertificateFault::ExtendedKeyUsage,
        ),
        (
            &|params| params.not_after = at(-1),
            CertificateFault::Expired,
        ),
    ] {
        assert_eq!(
            shown(doors.ca.issue(name(), &timely_and(change))).await,
            expected
        );
    }
    let fault = shown(Authority::root("clients' root").issue(name(), &timely)).await;
    assert_eq!(
        fault,
        CertificateFault::Issuer,
        "another CA of the same name"
    );
    let fault = shown(doors.acme.issue(name(), &timely)).await;
    assert_eq!(fault, CertificateFault::Issuer, "a trust domain's root");
    let fault = shown(self_signed(name(), &timely)).await;
    assert_eq!(fault, CertificateFault::Issuer, "its own word");
}

#[tokio::test]
async fn a_registered_certificate_is_that_one_and_no_other() {
    let doors = Doors::new();
    let caller = doors.show(&doors.own, Some("pinned")).await.unwrap();
    assert_eq!(caller.client().unwrap().as_str(), "pinned");
    let refused = certificate_fault(
        doors
            .show(&self_signed(vec![], &timely), Some("pinned"))
            .await,
    );
    assert_eq!(refused, CertificateFault::Unregistered);
    let issued = doors.ca.issue(vec![dns("robot.acme.test")], &timely);
    let refused = certificate_fault(doors.show(&issued, Some("pinned")).await);
    assert_eq!(refused, CertificateFault::Unregistered);
    let presented = Presented {
        certificate: Some(certificate(&doors.own)),
        client_id: Some("pinned".to_owned()),
        ..Presented::default()
    };
    let refused = doors.identity.verify(&presented, at(3601)).await;
    assert_eq!(certificate_fault(refused), CertificateFault::Expired);
}

#[tokio::test]
async fn a_chain_that_cannot_be_read_is_refused() {
    let doors = Doors::new();
    let svid = doors.acme.svid(ID, &timely);
    let leaf = svid.chain[0].clone();
    let (mut longer, mut torn, mut flipped) = (leaf.clone(), leaf.clone(), leaf);
    longer.push(0);
    torn.truncate(torn.len() / 2);
    let middle = flipped.len() - 8;
    flipped[middle] ^= 1;
    for (leaf, expected) in [
        (longer, CertificateFault::Malformed),
        (torn, CertificateFault::Malformed),
        (b"nonsense".to_vec(), CertificateFault::Malformed),
        (flipped, CertificateFault::Issuer),
    ] {
        let chain = vec![leaf];
        let issued = Issued {
            chain,
            ..doors.acme.svid(ID, AS_IT_IS)
        };
        assert_eq!(
            certificate_fault(doors.show(&issued, Some(ID)).await),
            expected
        );
    }
    assert!(ClientCertificate::new(vec![]).is_none());
    assert!(ClientCertificate::new(vec![vec![]]).is_none());
    assert!(ClientCertificate::new(vec![vec![1]; 9]).is_none());
    assert!(ClientCertificate::new(vec![vec![1; 16 * 1024 + 1]]).is_none());
}

#[test]
fn a_leaf_among_the_roots_vouches_for_nobody() {
    let own = self_signed(vec![uri(ID)], &timely);
    let rule = |roots: Vec<Vec<u8>>| CertificateRule::Issued {
        roots,
        name: CertificateName::Uri(ID.to_owned()),
    };
    assert_eq!(rule(own.chain).check(), Err(CertificateFault::Authority));
    assert_eq!(
        rule(vec![b"x".to_vec()]).check(),
        Err(CertificateFault::Malformed)
    );
    assert_eq!(rule(vec![Authority::root("root").root]).check(), Ok(()));
}

#[tokio::test]
async fn beside_an_assertion_or_a_platforms_token_a_certificate_authenticates_nobody() {
    let bench = Bench::new();
    // A stranger's, as every connection of a service mesh shows one.
    let mesh = ClientCertificate::new(self_signed(vec![uri(ID)], &timely).chain).unwrap();
    let assertion = bench
        .agent
        .sign(&json!({}), &tokens::assertion(NOW, AGENT, BROKER));
    for mut presented in [
        super::assertion(&assertion),
        subject(&bench.platform.sign(&json!({}), &github())),
    ] {
        presented.certificate = Some(mesh.clone());
        let caller = bench.identity.verify(&presented, at(0)).await.unwrap();
        assert_eq!(caller.proved_key(), None);
        assert_eq!(caller.bound_key(), None);
    }
    let presented = Presented {
        certificate: Some(mesh),
        ..Presented::default()
    };
    let refused = bench.identity.verify(&presented, at(0)).await;
    assert_eq!(certificate_fault(refused), CertificateFault::NoClientId);
}
