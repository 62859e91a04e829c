use super::*;
use crate::secret::Renewed;

fn build(
    change: impl FnOnce(&mut Vec<IssuerSettings>, &mut Vec<ClientSettings>),
) -> Result<Identity, SettingsError> {
    let signer = Signer::es256("k");
    let mut issuers = vec![
        issuer("github", GITHUB, &signer),
        issuer("gitlab", GITLAB, &signer),
    ];
    let mut clients = vec![ClientSettings {
        agent: AGENT.parse().unwrap(),
        keys: keys(&signer),
        legacy_audience: false,
        enrol: false,
    }];
    change(&mut issuers, &mut clients);
    Identity::new(issuers, clients, BROKER.to_owned(), &fetcher())
}

#[test]
fn good_settings_are_accepted() {
    assert!(build(|_, _| {}).is_ok());
}

fn review(url: &str) -> ReviewSettings {
    ReviewSettings {
        url: url.to_owned(),
        ca: None,
        token: Renewed::new(|| Ok(Secret::new("token".to_owned()))),
    }
}

type Spoil = fn(&mut Vec<IssuerSettings>);

/// Each line spoils one setting.
#[test]
fn one_wrong_setting_is_enough() {
    let spoils: Vec<(&str, Spoil)> = vec![
        ("no tenant on a shared issuer", |all| all[0].tenant.clear()),
        ("another claim is no tenant", |all| {
            all[0].tenant.clear();
            all[0].tenant.insert("actor".to_owned(), vec![json!("x")]);
        }),
        ("a tenant without values", |all| {
            all[0].tenant.insert("enterprise_id".to_owned(), vec![]);
        }),
        ("gitlab.com without a tenant", |all| {
            all[1].url = "https://gitlab.com".to_owned();
        }),
        ("no audience", |all| all[1].audiences.clear()),
        ("an empty audience", |all| {
            all[1].audiences.push(String::new());
        }),
        ("a bound audience", |all| {
            all[1].audiences.push("a#jkt=b".to_owned());
        }),
        ("no algorithm", |all| all[1].algorithms.clear()),
        ("no lifetime", |all| all[1].max_lifetime = Duration::ZERO),
        ("the clients' name", |all| all[1].id = IssuerId::client()),
        ("the same url twice", |all| {
            let url = all[0].url.clone();
            all[1].url = url;
            all[1].tenant = all[0].tenant.clone();
        }),
        ("http", |all| {
            all[1].url = "http://gitlab.acme.example".to_owned();
            all[1].keys = KeySource::Discovery;
        }),
        ("keys fetched over http", |all| {
            all[1].keys = KeySource::JwksUrl("http://gitlab.acme.example/jwks".to_owned());
        }),
        ("keys fetched from a private address", |all| {
            all[1].keys = KeySource::JwksUrl("https://10.0.0.1/jwks".to_owned());
        }),
        ("a query", |all| {
            all[1].url = "https://gitlab.acme.example?x=1".to_owned();
            all[1].keys = KeySource::Discovery;
        }),
        ("an empty url", |all| all[1].url.clear()),
        ("an API server over http", |all| {
            all[1].review = Some(review("http://kubernetes.acme.example"));
        }),
        ("an API server at a metadata service", |all| {
            all[1].review = Some(review("https://169.254.169.254"));
        }),
        ("an authority that is not there", |all| {
            let mut review = review("https://kubernetes.default.svc");
            review.ca = Some("/nowhere/ca.crt".into());
            all[1].review = Some(review);
        }),
        ("STS over http", |all| {
            all[1].sts = vec!["http://sts.acme.example".to_owned()];
        }),
        ("STS with a path", |all| {
            all[1].sts = vec!["https://sts.amazonaws.com/x".to_owned()];
        }),
        ("one STS twice", |all| {
            all[0].sts = vec!["https://sts.amazonaws.com".to_owned()];
            all[1].sts = vec!["https://sts.amazonaws.com".to_owned()];
        }),
    ];
    for (what, spoil) in spoils {
        assert!(build(|issuers, _| spoil(issuers)).is_err(), "{what}");
    }
}

#[test]
fn a_client_is_registered_once_and_with_a_key() {
    let twice = build(|_, clients| clients.push(clients[0].clone()));
    assert_eq!(
        twice.unwrap_err(),
        SettingsError::SameClient(AGENT.parse().unwrap())
    );
    let no_key = build(|_, clients| clients[0].keys = KeySet::default());
    assert_eq!(
        no_key.unwrap_err(),
        SettingsError::NoKey(AGENT.parse().unwrap())
    );
}

#[test]
fn the_broker_has_an_issuer_url() {
    for url in [
        "",
        "broker",
        "http://broker.acme.example",
        "https://b.example/?q",
        "https://u@b.example",
    ] {
        let result = Identity::new(vec![], vec![], url.to_owned(), &fetcher());
        assert_eq!(
            result.unwrap_err(),
            SettingsError::BrokerUrl(url.to_owned())
        );
    }
    let local = "http://127.0.0.1:8080".to_owned();
    assert!(Identity::new(vec![], vec![], local, &fetcher()).is_ok());
}

/// An issuer inside of an organisation is reached where its own table says so, and nothing else is.
#[test]
fn a_private_network_is_reached_for_the_issuer_that_says_so() {
    let at = |address: &str, private: bool| {
        let url = format!("https://{address}");
        build(|issuers, _| {
            issuers[1].url = url;
            issuers[1].keys = KeySource::Discovery;
            issuers[1].private_network = private;
        })
        .is_ok()
    };
    for address in ["10.1.2.3", "192.168.7.1", "[fd00::1]"] {
        assert!(!at(address, false), "{address}");
        assert!(at(address, true), "{address}");
    }
    for address in [
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "0.0.0.0",
    ] {
        assert!(!at(address, false), "{address}");
        assert!(!at(address, true), "{address}");
    }
    // What one issuer says of itself is not said of another.
    let both = build(|issuers, _| {
        for issuer in issuers.iter_mut() {
            issuer.keys = KeySource::JwksUrl("https://10.1.2.3/jwks".to_owned());
        }
        issuers[1].private_network = true;
    });
    match both {
        Err(SettingsError::Issuer { issuer, .. }) => assert_eq!(issuer.as_str(), "github"),
        other => panic!("{other:?}"),
    }
}
