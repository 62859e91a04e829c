use super::*;
use proptest::prelude::*;

fn action() -> impl Strategy<Value = String> {
    "(o|s):[ab*]{1,2}"
}

fn location() -> impl Strategy<Value = String> {
    prop_oneof![Just("*".to_owned()), "https://a/[ab*]{0,2}"]
}

fn any_authority() -> impl Strategy<Value = Authority> {
    let permission = (
        prop::collection::vec(action(), 1..3),
        prop::collection::vec(location(), 0..3),
    )
        .prop_map(|(actions, locations)| Permission { actions, locations });
    prop::collection::vec(permission, 1..3).prop_map(Authority)
}

/// The same shape in the words of IAM: every location an ARN, and none missing.
fn in_dialect(aws: bool, authority: Authority) -> Authority {
    if !aws {
        return authority;
    }
    let arn = |location: String| location.replace("https://a/", "arn:aws:a:::x");
    let permissions = authority.0.into_iter().map(|mut permission| {
        permission.locations = permission.locations.into_iter().map(arn).collect();
        if permission.locations.is_empty() {
            permission.locations.push("*".to_owned());
        }
        permission
    });
    Authority(permissions.collect())
}

fn to_details(aws: bool, authority: &Authority) -> Vec<AuthorizationDetail> {
    let kind = if aws { "aws_session" } else { "access_token" };
    authority.to_details(kind, &"orders-api".parse().unwrap(), None)
}

/// Wide often enough that grants happen.
fn ceiling() -> impl Strategy<Value = Authority> {
    prop_oneof![
        2 => Just(Authority(vec![
            Permission { actions: vec!["*".to_owned()], locations: vec!["*".to_owned()] },
        ])),
        1 => any_authority(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_grant_is_covered_by_all_that_it_comes_from(
        aws in any::<bool>(),
        signed in any_authority(),
        beside in prop_oneof![Just(Authority::default()), any_authority()],
        scope in prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(action(), 1..2)],
        allow in ceiling(),
        agent_ceiling in prop_oneof![Just(None), ceiling().prop_map(Some)],
        target_ceiling in ceiling(),
        platform in any::<bool>(),
    ) {
        let [signed, beside, allow, target_ceiling] =
            [signed, beside, allow, target_ceiling].map(|one| in_dialect(aws, one));
        let agent_ceiling = agent_ceiling.map(|one| in_dialect(aws, one));
        let (signed, beside) = (to_details(aws, &signed), to_details(aws, &beside));
        let vocabulary = if aws { Vocabulary::Aws } else { Vocabulary::Scopes };
        let mut world = World::new();
        for target in &mut world.targets {
            target.vocabulary = vocabulary;
            target.detail_type = if aws { "aws_session" } else { "access_token" };
            target.ceiling = authority(&["*"], &["*"]);
        }
        // The target's ceiling is put in afterwards: a policy holds no mission wider than it.
        world.mission().allow = BTreeMap::from([("orders-api".parse().unwrap(), allow.clone())]);
        world.agent.ceiling = agent_ceiling
            .clone()
            .map(|own| BTreeMap::from([("orders-api".parse().unwrap(), own)]));
        world.asked.authorization_details = beside.clone();
        world.asked.scope = scope.clone();
        if platform {
            world.signer = SignerClass::Platform;
            world.mission().signer = SignerClass::Platform;
            world.mission().max_active = Some(1);
            world.details = Vec::new();
        } else {
            world.details = signed.clone();
        }
        let mut policy = world.policy().unwrap();
        let target = policy.targets.get_mut(&"orders-api".parse().unwrap()).unwrap();
        target.ceiling = target_ceiling.clone();
        let question = world.question();
        let told = policy.explain_question(&question, &world.view, NOW);
        let walked = policy.walk(&question, &world.view, NOW, &mut Trace::Silent);
        prop_assert_eq!(told.denied.as_ref(), walked.as_ref().err());

        let Ok(granted) = walked else { return Ok(()) };
        let within = |ceiling: &Authority| vocabulary.covers(ceiling, &granted.authority).unwrap();
        prop_assert!(!granted.authority.is_empty());
        prop_assert!(within(&allow));
        prop_assert!(within(&target_ceiling));
        if let Some(own) = &agent_ceiling {
            prop_assert!(within(own));
        }
        if !platform {
            prop_assert!(within(&Authority::from_details(&signed)));
        }
        if !beside.is_empty() {
            prop_assert!(within(&Authority::from_details(&beside)));
        }
        if !scope.is_empty() {
            let actions = granted.authority.0.iter().flat_map(|p| &p.actions);
            prop_assert!(actions.into_iter().all(|action| scope.contains(action)));
        }
        prop_assert!(granted.ttl <= Duration::from_secs(900));
    }
}
