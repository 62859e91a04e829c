use super::*;
use crate::fences::DimensionKind;

fn ids(tether: &str, proved: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let found = contexts(tether, &facts(proved))?;
    assert!(found.iter().all(|(kind, _)| kind == tether));
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

#[test]
fn a_kind_is_identified_by_its_run_its_id_or_its_uid() {
    let run = ("pipeline.run_id", "12");
    assert_eq!(ids("pipeline", &[run]).unwrap(), ["12"]);
    let attempt = ("pipeline.run_attempt", "2");
    assert_eq!(ids("pipeline", &[run, attempt]).unwrap(), ["12", "12/2"]);
    assert_eq!(ids("change", &[("change.id", "CHG1")]).unwrap(), ["CHG1"]);
    assert_eq!(ids("session", &[("session.uid", "u")]).unwrap(), ["u"]);
    assert_eq!(
        ids("pipeline", &[run, ("pipeline.id", "x")]).unwrap(),
        ["12"]
    );
}

#[test]
fn a_facts_name_is_a_kind_of_its_own() {
    let job = ("pipeline.job_id", "j/1");
    assert_eq!(ids("pipeline.job_id", &[job]).unwrap(), ["j/1"]);
    assert_eq!(ids("pipeline.job_id", &[]).unwrap_err(), "pipeline.job_id");
}

#[test]
fn an_id_that_could_be_read_as_an_attempt_is_no_id() {
    assert!(ids("pipeline", &[("pipeline.run_id", "12/2")]).is_err());
    assert!(ids("pipeline", &[("pipeline.run_id", "")]).is_err());
}

#[test]
fn a_lease_without_its_tether_is_refused() {
    let mut world = World::new();
    world.facts.remove("pipeline.run_id");
    let denied = world.denied();
    assert_eq!(denied.reason, Denial::TetherMissing);
    assert!(denied.detail.contains("pipeline.run_id"));
    world
        .facts
        .insert("pipeline.run_id".to_owned(), Value::Null);
    assert_eq!(world.reason(), Denial::TetherMissing);
    world.mission().tether.clear();
    assert!(world.decide().is_ok());
}

#[test]
fn a_run_whose_repository_cannot_be_told_apart_hangs_on_nothing() {
    for odd in ["", "7/7", "7:7"] {
        let facts = [("pipeline.run_id", "1"), ("pipeline.repository_id", odd)]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        assert_eq!(
            contexts("pipeline", &facts),
            Err("pipeline.repository_id".to_owned()),
            "{odd}"
        );
    }
}

#[test]
fn a_context_is_keyed_by_whoever_proved_it() {
    let mut world = World::new();
    world.mission().tether = strings(&["pipeline", "change"]);
    world.facts.extend(facts(&[("change.id", "CHG1")]));
    let prover = (
        "changes".parse().unwrap(),
        "https://changes.example".to_owned(),
    );
    world.provers.insert("change".to_owned(), prover);
    let dimensions = world.decide().unwrap().dimensions;
    let there = |issuer: &str, kind: &str, id: &str| {
        dimensions.contains(&Dimension::context(issuer, kind, id))
    };
    for issuer in ["changes", "https://changes.example"] {
        assert!(there(issuer, "change", "CHG1"), "{issuer}");
        assert!(!there(issuer, "pipeline", "1234"), "{issuer}");
    }
    for issuer in ["github", "https://issuer.example"] {
        assert!(there(issuer, "pipeline", "1234"), "{issuer}");
        assert!(!there(issuer, "change", "CHG1"), "{issuer}");
    }
}

#[test]
fn whoever_vouched_beside_the_platform_is_a_dimension_and_can_be_held() {
    let mut world = World::new();
    let voucher = Dimension::new(DimensionKind::Issuer, "https://changes.example");
    world.vouchers = vec![voucher.clone()];
    assert!(world.decide().unwrap().dimensions.contains(&voucher));
    world.view = View::of([hold(voucher)]);
    assert_eq!(world.reason(), Denial::Held);
}

#[test]
fn a_job_is_its_repositorys_and_any_other_fact_is_a_kind_of_its_own() {
    let of = |owner: &'static str| [("pipeline.job_id", "5"), ("pipeline.repository_id", owner)];
    assert_eq!(ids("pipeline.job_id", &of("1234")).unwrap(), ["1234:5"]);
    for odd in ["", "7/7", "7:7"] {
        let missing = ids("pipeline.job_id", &of(odd)).unwrap_err();
        assert_eq!(missing, "pipeline.repository_id", "{odd}");
    }
    let step = [
        ("pipeline.step", "deploy"),
        ("pipeline.repository_id", "1234"),
    ];
    assert_eq!(ids("pipeline.step", &step).unwrap(), ["deploy"]);
}
