use super::*;
use crate::authority::SQL_PRIVILEGES;
use crate::fences::DimensionKind;
use crate::identity::Person;
use crate::intent::Parent;
use proptest::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Whose words a case is in.
fn vocabulary() -> impl Strategy<Value = Vocabulary> {
    prop::sample::select(vec![Vocabulary::Scopes, Vocabulary::Aws, Vocabulary::Sql])
}

fn everywhere(vocabulary: Vocabulary) -> &'static str {
    match vocabulary {
        Vocabulary::Sql => "*.*",
        _ => "*",
    }
}

/// The same shape in the words of IAM or of SQL: every location an ARN, or a table, and none missing.
fn in_words_of(vocabulary: Vocabulary, authority: Authority) -> Authority {
    if vocabulary == Vocabulary::Scopes {
        return authority;
    }
    let location = |location: String| match (location.as_str(), vocabulary) {
        ("*", _) => everywhere(vocabulary).to_owned(),
        (uri, Vocabulary::Sql) => uri.replace("https://a/", "a.x"),
        (uri, _) => uri.replace("https://a/", "arn:aws:a:::x"),
    };
    let permissions = authority.0.into_iter().map(|mut permission| {
        permission.locations = permission.locations.into_iter().map(location).collect();
        if permission.locations.is_empty() {
            permission.locations.push(everywhere(vocabulary).to_owned());
        }
        let actions = permission.actions.into_iter();
        permission.actions = actions.map(|one| action_of(vocabulary, one)).collect();
        permission
    });
    Authority(permissions.collect())
}

/// A privilege has no patterns but the one for all.
fn action_of(vocabulary: Vocabulary, action: String) -> String {
    if vocabulary != Vocabulary::Sql {
        return action;
    }
    let privilege = match action.split_once(':') {
        None => "*",
        Some((_, name)) if name.starts_with('*') => "*",
        Some(("o", name)) if name.starts_with('a') => "select",
        Some(("o", _)) => "insert",
        Some((_, name)) if name.starts_with('a') => "update",
        Some(_) => "references",
    };
    privilege.to_owned()
}

fn detail_type(vocabulary: Vocabulary) -> &'static str {
    match vocabulary {
        Vocabulary::Aws => "aws_session",
        Vocabulary::Sql => "postgres_login",
        _ => "access_token",
    }
}

fn to_details(vocabulary: Vocabulary, authority: &Authority) -> Vec<AuthorizationDetail> {
    authority.to_details(
        detail_type(vocabulary),
        &"orders-api".parse().unwrap(),
        None,
    )
}

/// Read too simply to be wrong, and not by what decides: whether this privilege on this table is in it.
fn permits(authority: &Authority, privilege: &str, table: &str) -> bool {
    fn fits(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => {
                (0..=text.len()).any(|taken| fits(rest, text.split_at(taken).1))
            }
            ([one, rest @ ..], [other, more @ ..]) => one == other && fits(rest, more),
            (rest, more) => rest.is_empty() && more.is_empty(),
        }
    }
    authority.0.iter().any(|permission| {
        let acts = permission.actions.iter();
        let at = permission.locations.iter();
        acts.into_iter().any(|one| one == "*" || one == privilege)
            && at
                .into_iter()
                .any(|one| fits(one.as_bytes(), table.as_bytes()))
    })
}

/// What is granted and was not in all of these.
fn beyond<'a>(
    granted: &Authority,
    within: &[&'a Authority],
) -> Option<(&'static str, &'static str, &'a Authority)> {
    let tables = ["a.x", "a.xa", "a.xb", "a.xab", "a.xba", "b.x"];
    let pairs = SQL_PRIVILEGES
        .iter()
        .flat_map(|privilege| tables.map(|table| (*privilege, table)));
    let mut granted = pairs.filter(|(privilege, table)| permits(granted, privilege, table));
    granted.find_map(|(privilege, table)| {
        let narrower = within.iter().find(|one| !permits(one, privilege, table))?;
        Some((privilege, table, *narrower))
    })
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

/// The policy of this world. Cedar's part of it, which takes a hundred times as long to compile as a
/// step takes to decide, is the same in every world of the same agent: the names of the mission, its agents
/// and its targets.
fn with_policy<T>(world: &World, judge: impl FnOnce(&mut Policy) -> T) -> T {
    thread_local! {
        static COMPILED: RefCell<BTreeMap<AgentId, Policy>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let policy = compiled
            .entry(world.agent.id.clone())
            .or_insert_with(|| world.policy().unwrap());
        for mission in &world.missions {
            let known = policy.missions.insert(mission.id.clone(), mission.clone());
            let known = known.unwrap();
            assert_eq!(known.agents, mission.agents);
            assert!(known.allow.keys().eq(mission.allow.keys()));
        }
        for target in &world.targets {
            policy
                .targets
                .insert(target.id.clone(), target.clone())
                .unwrap();
        }
        judge(policy)
    })
}

/// What a property says of grants it says of nothing, where hardly anything is granted.
struct Few {
    seen: AtomicUsize,
    granted: AtomicUsize,
}

static FEW_OF_ONE: Few = Few::new();
static FEW_OF_CHAIN: Few = Few::new();

impl Few {
    const fn new() -> Self {
        Self {
            seen: AtomicUsize::new(0),
            granted: AtomicUsize::new(0),
        }
    }

    /// Looked at with the last of so many cases: one in twenty.
    fn are_enough(&self, granted: bool, cases: usize) -> bool {
        let granted = self
            .granted
            .fetch_add(usize::from(granted), Ordering::Relaxed);
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        seen != cases || granted >= cases / 20
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_grant_is_covered_by_all_that_it_comes_from(
        vocabulary in vocabulary(),
        signed in any_authority(),
        beside in prop_oneof![Just(Authority::default()), any_authority()],
        scope in prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(action(), 1..2)],
        allow in ceiling(),
        agent_ceiling in prop_oneof![Just(None), ceiling().prop_map(Some)],
        target_ceiling in ceiling(),
        platform in any::<bool>(),
    ) {
        let [signed, beside, allow, target_ceiling] =
            [signed, beside, allow, target_ceiling].map(|one| in_words_of(vocabulary, one));
        let agent_ceiling = agent_ceiling.map(|one| in_words_of(vocabulary, one));
        let scope: Vec<_> = scope.into_iter().map(|one| action_of(vocabulary, one)).collect();
        let (signed, beside) = (to_details(vocabulary, &signed), to_details(vocabulary, &beside));
        let mut world = World::new();
        for target in &mut world.targets {
            target.vocabulary = vocabulary;
            target.detail_type = detail_type(vocabulary);
            target.ceiling = authority(&["*"], &[everywhere(vocabulary)]);
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
        let question = world.question();
        let (told, walked) = with_policy(&world, |policy| {
            let target = policy.targets.get_mut(&"orders-api".parse().unwrap()).unwrap();
            target.ceiling = target_ceiling.clone();
            let told = policy.explain_question(&question, &world.view, NOW);
            let walked = policy.walk(&question, &world.view, NOW, &mut Trace::Silent);
            (told.denied, walked.map(|granted| (granted.authority, granted.ttl)))
        });
        prop_assert_eq!(told.as_ref(), walked.as_ref().err());
        prop_assert!(FEW_OF_ONE.are_enough(walked.is_ok(), 400));

        let Ok((granted, ttl)) = walked else { return Ok(()) };
        let within = |ceiling: &Authority| vocabulary.covers(ceiling, &granted).unwrap();
        prop_assert!(!granted.is_empty());
        prop_assert!(within(&allow));
        prop_assert!(within(&target_ceiling));
        if let Some(own) = &agent_ceiling {
            prop_assert!(within(own));
        }
        let [signed, beside] = [&signed, &beside].map(|one| Authority::from_details(one));
        let signed = (!platform).then_some(&signed);
        let beside = Some(&beside).filter(|one| !one.is_empty());
        for asked in signed.into_iter().chain(beside) {
            prop_assert!(within(asked));
        }
        if vocabulary == Vocabulary::Sql {
            let all = [Some(&allow), Some(&target_ceiling), agent_ceiling.as_ref(), signed, beside];
            let all: Vec<_> = all.into_iter().flatten().collect();
            prop_assert_eq!(beyond(&granted, &all), None);
        }
        if !scope.is_empty() {
            let actions = granted.0.iter().flat_map(|p| &p.actions);
            prop_assert!(actions.into_iter().all(|action| scope.contains(action)));
        }
        prop_assert!(ttl <= Duration::from_secs(900));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// With a restriction nothing is allowed that was not before, and nothing that matches it is.
    #[test]
    fn a_restriction_only_takes_away_and_takes_all_that_it_names(
        vocabulary in vocabulary(),
        signed in any_authority(),
        allow in ceiling(),
        denied in any_authority(),
        whole in any::<bool>(),
    ) {
        let [signed, allow, mut denied] = [signed, allow, denied].map(|one| in_words_of(vocabulary, one));
        // As the door does: a denial without a location is one everywhere.
        for permission in denied.0.iter_mut().filter(|one| one.locations.is_empty()) {
            permission.locations.push(everywhere(vocabulary).to_owned());
        }
        let mut world = World::new();
        for target in &mut world.targets {
            target.vocabulary = vocabulary;
            target.detail_type = detail_type(vocabulary);
            target.ceiling = authority(&["*"], &[everywhere(vocabulary)]);
        }
        world.mission().allow = BTreeMap::from([("orders-api".parse().unwrap(), allow)]);
        world.details = if whole { Vec::new() } else { to_details(vocabulary, &signed) };
        world.mission = Some(world.mission().id.clone());
        world.asked.targets = vec!["orders-api".to_owned()];
        let free = world.decide();
        world.view = View::of([restriction("orders-api", denied.clone())]);
        let Ok(granted) = world.decide() else { return Ok(()) };
        let free = free.unwrap().authority;
        prop_assert!(!granted.authority.is_empty());
        prop_assert!(vocabulary.covers(&free, &granted.authority).unwrap());
        prop_assert!(!vocabulary.overlap(&denied, &granted.authority).unwrap());
        // Nothing but what it names: the pairs that are gone are those that meet it.
        for permission in &free.0 {
            for action in &permission.actions {
                for location in &permission.locations {
                    let pair = authority(&[action.as_str()], &[location.as_str()]);
                    let left = vocabulary.covers(&granted.authority, &pair).unwrap();
                    prop_assert!(left || vocabulary.overlap(&denied, &pair).unwrap());
                }
            }
        }
    }
}

/// One exchange of a chain: what its agent asks, and what its ceiling is.
#[derive(Debug, Clone)]
struct Step {
    asked: Vec<AuthorizationDetail>,
    allow: Authority,
    own: Option<Authority>,
    max_ttl: Option<u32>,
    /// Exchanged again by whoever holds the one before, as if it were the agent's own.
    again: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (
        prop_oneof![
            2 => any_authority().prop_map(|asked| to_details(Vocabulary::Scopes, &asked)),
            1 => Just(narrow()),
        ],
        ceiling(),
        prop_oneof![3 => Just(None), 1 => ceiling().prop_map(Some)],
        prop_oneof![Just(None), (60_u32..900).prop_map(Some)],
        any::<bool>(),
    )
        .prop_map(|(asked, allow, own, max_ttl, again)| Step {
            asked,
            allow,
            own,
            max_ttl,
            again,
        })
}

/// What most ceilings cover, so that chains grow.
fn narrow() -> Vec<AuthorizationDetail> {
    to_details(Vocabulary::Scopes, &authority(&["o:a"], &["https://a/a"]))
}

/// What one link of the chain allows, and until when.
struct Bound {
    authority: Vec<Authority>,
    expires_at: OffsetDateTime,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// INVARIANT of the whole room: however tokens are exchanged again, no credential reaches further
    /// than any principal of its chain lets it, or lives longer; and the chain only grows.
    #[test]
    fn no_way_through_a_chain_yields_more_than_any_link_allows(
        people in ceiling(),
        person in any::<bool>(),
        target_ceiling in ceiling(),
        steps in prop::collection::vec(step(), 1..6),
    ) {
        let target: TargetId = "orders-api".parse().unwrap();
        let mut bounds: Vec<Bound> = Vec::new();
        let mut behalf = Behalf::Nobody;
        let mut depth = 0;
        let mut longest = 0;
        let mut now = NOW;
        if person {
            let claims = serde_json::json!({ "sub": "alice", "groups": ["oncall"] });
            let claims = claims.as_object().unwrap().clone();
            let alice = Person::stated("corp".parse().unwrap(), claims, NOW);
            behalf = Behalf::Person(Box::new(alice));
        }
        for (number, step) in steps.iter().enumerate() {
            let mut world = World::new();
            world.target().ceiling = authority(&["*"], &["*"]);
            let own: AgentId = match (step.again, behalf.parent()) {
                (true, Some(parent)) => parent.agent().clone(),
                _ => format!("agent-{number}").parse().unwrap(),
            };
            world.agent.id = own.clone();
            world.agent.ceiling = step.own.clone().map(|own| BTreeMap::from([(target.clone(), own)]));
            let mut parents = world.missions[0].clone();
            parents.id = "deploy-before".parse().unwrap();
            parents.delegates_to = vec![own.clone()];
            let mission = world.mission();
            mission.agents = vec![own];
            mission.allow = BTreeMap::from([(target.clone(), step.allow.clone())]);
            if behalf.person().is_some() {
                mission.on_behalf_of = vec![People {
                    name: "oncall".to_owned(),
                    issuer: "corp".parse().unwrap(),
                    claims: facts(&[("groups", "oncall")]),
                    ceiling: BTreeMap::from([(target.clone(), people.clone())]),
                }];
            }
            world.missions.push(parents);
            world.details = step.asked.clone();
            world.details[0].max_ttl = step.max_ttl;
            world.behalf = behalf.clone();
            world.now = now;
            let question = world.question();
            let walked = with_policy(&world, |policy| {
                policy.targets.get_mut(&target).unwrap().ceiling = target_ceiling.clone();
                let granted = policy.walk(&question, &world.view, now, &mut Trace::Silent).ok()?;
                Some((granted.authority, granted.ttl, granted.chain, granted.dimensions))
            });
            let Some((granted, ttl, chain, dimensions)) = walked else { continue };

            let mut authority = vec![step.allow.clone(), target_ceiling.clone()];
            authority.push(Authority::from_details(&step.asked));
            authority.extend(step.own.clone());
            if behalf.person().is_some() {
                authority.push(people.clone());
            }
            let expires_at = now + ttl;
            bounds.push(Bound { authority, expires_at });
            for bound in &bounds {
                prop_assert!(expires_at <= bound.expires_at);
                for ceiling in &bound.authority {
                    let covered = Vocabulary::Scopes.covers(ceiling, &granted);
                    prop_assert_eq!(covered, Ok(true));
                }
            }
            longest = longest.max(number);
            depth += usize::from(number > 0 && behalf.parent().is_some());
            prop_assert_eq!(chain.len(), depth + usize::from(person));
            prop_assert!(chain.len() <= crate::intent::behalf::MAX_ACTORS);
            if let Some(parent) = behalf.parent() {
                for dimension in parent.dimensions() {
                    prop_assert!(dimensions.contains(dimension));
                }
            }
            let id = crate::ids::LeaseId::draw(crate::ids::ShardId::of(&world.agent.id, None));
            let mut dimensions = dimensions;
            dimensions.push(Dimension::new(DimensionKind::Lease, id.to_string()));
            behalf = Behalf::Parent(Box::new(Parent {
                lease: id,
                agent: world.agent.id.clone(),
                mission: "deploy-before".parse().unwrap(),
                target: target.clone(),
                authority: granted,
                expires_at,
                bound_key: None,
                dimensions,
                chain,
                token_sha256: [0; 32],
                ended: None,
            }));
            now += Duration::from_secs(7);
        }
        prop_assert!(FEW_OF_CHAIN.are_enough(longest > 0, 1024));
    }
}
