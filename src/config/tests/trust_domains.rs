//! `[trust_domain.NAME]` and the agents it vouches for, each spoiled in one thing.

use super::*;

#[test]
fn of_a_trust_domain() {
    let github = "identity = { github = \"acme/shop\", repository_id = 7 }";
    let spiffe = |id: &str| format!("identity = {{ spiffe = \"{id}\" }}");
    let known = "[trust_domain.\"acme.test\"]\nbundle = \"file:absent.json\"\n";
    let with_domain = |domain: &str, identity: &str| {
        let text = spoiled(github, identity);
        checked(&format!("{text}\n{domain}"))
    };
    let codes = |report: &CheckReport| -> Vec<&str> {
        let problems = &report.problems.0;
        problems
            .iter()
            .map(|problem| problem.code.as_str())
            .collect()
    };
    let good = with_domain(known, &spiffe("spiffe://acme.test/ns/shop"));
    assert!(codes(&good).is_empty(), "{good}");
    for (domain, id, expected) in [
        ("", "spiffe://acme.test/ns/shop", "unknown_issuer"),
        (known, "spiffe://other.test/ns/shop", "unknown_issuer"),
        (known, "spiffe://acme.test/ns/*", "bad_value"),
        (known, "spiffe://acme.test", "bad_value"),
        (known, "acme.test/ns/shop", "bad_value"),
    ] {
        let report = with_domain(domain, &spiffe(id));
        assert_eq!(codes(&report), [expected], "{id}: {report}");
    }
    let more = with_domain(
        known,
        "identity = { spiffe = \"spiffe://acme.test/a\", region = \"eu\" }",
    );
    assert_eq!(codes(&more), ["unknown_key"]);
    for (table, expected) in [
        ("[trust_domain.a]", "missing_key"),
        ("[trust_domain.a]\nbundle = \"bundle.json\"", "bad_keys"),
        ("[trust_domain.a]\nbundle = \"env:BUNDLE\"", "bad_keys"),
        (
            "[trust_domain.a]\nbundle = \"http://bundles.test\"",
            "insecure_url",
        ),
        (
            "[trust_domain.a]\nbundle = \"https://bundles.test\"\nca = \"file:absent.pem\"",
            "bad_keys",
        ),
        (
            "[trust_domain.a]\nbundle = \"file:b.json\"\nca = \"file:absent.pem\"",
            "bad_value",
        ),
        (
            "[trust_domain.a]\nbundle = \"file:b.json\"\ndomain = \"spiffe://a\"",
            "bad_value",
        ),
        (
            "[trust_domain.client]\nbundle = \"file:b.json\"",
            "bad_name",
        ),
        (
            "[trust_domain.a]\nbundle = \"file:b.json\"\nkeys = \"file:b.json\"",
            "unknown_key",
        ),
        (
            "[trust_domain.a]\nbundle = \"file:b.json\"\n[issuer.a]\nurl = \"https://a.test\"",
            "duplicate",
        ),
        (
            "[trust_domain.a]\nbundle = \"file:b.json\"\n[trust_domain.b]\ndomain = \"a\"\nbundle = \"file:b.json\"",
            "duplicate",
        ),
    ] {
        let report = checked(&format!("{GOOD}\n{table}\n"));
        assert_eq!(codes(&report), [expected], "{table}: {report}");
    }
}
