//! Labels decide: in `require`, and in conditions. What is found and ended by them is in `agents`, `simulate` and
//! `revocations`.

use crate::support::broker::{TestBroker, configuration};

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_agent_mission_and_target_decide_in_require_and_in_conditions() {
    let broker = TestBroker::start().await;
    let labels = "[agent.deployer.labels]\nteam = \"payments\"\n[mission.deploy-checkout.labels]\ntier = \"one\"\n\
                  [target.deploy-api.labels]\ndata = \"none\"\n";
    let base = configuration(&broker.url, &broker.issuer, "ES256") + labels;
    let required = "require = { \"pipeline.environment\" = \"production\" }";
    assert!(base.contains(required));
    let tag = |whose: &str, name: &str, value: &str| {
        format!("when = '{whose}.hasTag(\"{name}\") && {whose}.getTag(\"{name}\") == \"{value}\"'")
    };
    let require = |name: &str, value: &str| format!("require = {{ \"{name}\" = \"{value}\" }}");
    for (line, reason) in [
        (require("agent.labels.team", "payments"), ""),
        (require("mission.labels.tier", "one"), ""),
        (require("target.labels.data", "none"), ""),
        (require("agent.labels.team", "billing"), "requirement_unmet"),
        // Another's label of that name is not its own.
        (
            require("target.labels.team", "payments"),
            "requirement_unmet",
        ),
        (require("mission.labels.data", "none"), "requirement_unmet"),
        (tag("principal", "team", "payments"), ""),
        (tag("resource", "data", "none"), ""),
        (tag("context.mission", "tier", "one"), ""),
        (tag("principal", "team", "billing"), "condition_unmet"),
        (tag("resource", "data", "some"), "condition_unmet"),
        (tag("context.mission", "tier", "two"), "condition_unmet"),
        (tag("resource", "team", "payments"), "condition_unmet"),
    ] {
        let text = base.replace(required, &line);
        let folder = broker.folder.path().to_owned();
        let settings = dayfly::config::load_with(vec![("test.toml".to_owned(), text)], folder)
            .and_then(|document| document.resolve())
            .unwrap_or_else(|problems| panic!("{line}: {problems}"));
        broker.composed.reload(&settings).await.unwrap();
        let answer = broker.exchange(&broker.good_form()).await;
        assert_eq!(answer.reason(), reason, "{line}: {}", answer.body);
        assert_eq!(answer.status == 200, reason.is_empty(), "{line}");
    }
}
