use super::*;
use std::collections::BTreeSet;

const URL: &str = "https://broker.example/dayfly";

/// Every member of every object below, with the path to it.
fn walk<'a>(at: &str, value: &'a Value, visit: &mut dyn FnMut(&str, &str, &'a Value)) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                visit(at, name, value);
                walk(&format!("{at}/{name}"), value, visit);
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter().enumerate() {
                walk(&format!("{at}/{number}"), value, visit);
            }
        }
        _ => {}
    }
}

fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods
                .filter(|(method, _)| *method != "servers")
                .map(move |(method, value)| (format!("{} {path}", method.to_uppercase()), value))
        })
        .collect()
}

#[test]
fn it_has_every_door_of_the_table_and_no_other() {
    let document = document(URL);
    let told: BTreeSet<_> = operations(&document)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let table: BTreeSet<_> = TABLE
        .iter()
        .map(|route| format!("{} {}", route.method, route.path.replace("{*", "{")))
        .collect();
    assert_eq!(told, table);
    assert_eq!(document["servers"][0]["url"], URL);
}

#[test]
fn each_door_has_a_name_of_its_own_a_summary_and_an_answer() {
    let document = document(URL);
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(!id.is_empty() && ids.insert(id), "{name}: {id}");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{name}");
        let tags: Vec<_> = about::TAGS.iter().map(|(tag, _)| *tag).collect();
        assert!(
            tags.contains(&operation["tags"][0].as_str().unwrap()),
            "{name}"
        );
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.keys().any(|status| status != "500"), "{name}");
    }
}

#[test]
fn a_paths_parameters_are_the_documents() {
    for route in TABLE {
        let written: Vec<_> = route
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| name.trim_start_matches('*'))
            .collect();
        let told: Vec<_> = route
            .about
            .params
            .iter()
            .filter(|param| param.place == about::Place::Path)
            .map(|param| param.name)
            .collect();
        assert_eq!(written, told, "{}", route.path);
    }
}

#[test]
fn every_schema_and_example_of_ours_is_json_and_every_reference_leads_somewhere() {
    let document = document(URL);
    walk("", &document, &mut |at, name, value| {
        let ours = at.starts_with("/paths");
        assert!(!ours || !value.is_null(), "{at}/{name}");
        if name == "$ref" {
            let pointer = value.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{at}: {value}");
        }
    });
}

/// Every object of a refusal is documented with its codes, and what may not be told is not.
#[test]
fn refusals_name_the_reasons_that_may_be_told_there() {
    let document = document(URL);
    let codes = |path: &str, method: &str, status: &str| -> Vec<String> {
        let content = &document["paths"][path][method]["responses"][status]["content"];
        let told = &content["application/json"]["schema"]["allOf"][1]["properties"];
        let codes = told["dayfly_reason"]["enum"].as_array().unwrap().iter();
        codes
            .map(|code| code.as_str().unwrap().to_owned())
            .collect()
    };
    let exchange = codes("/token", "post", "400");
    assert!(exchange.contains(&"exceeds_mission".to_owned()));
    assert!(
        !exchange.contains(&"unknown_agent".to_owned()),
        "never told"
    );
    assert!(
        !exchange.contains(&"not_found".to_owned()),
        "of other doors"
    );
    assert_eq!(codes("/token", "post", "413"), ["request_too_large"]);
    assert_eq!(codes("/admin/v1/leases", "get", "403"), ["not_permitted"]);
    let waits = &document["paths"]["/token"]["post"]["responses"]["429"]["headers"];
    assert!(waits.get("Retry-After").is_some());
    // Every reason is told at some door, or has no face, or is of no operation.
    for reason in Reason::ALL {
        let told = document.to_string().contains(&format!("`{reason}`"));
        let hidden = crate::http::error::face(*reason).shown == crate::http::error::Shown::Never;
        let outside = *reason == Reason::MethodNotAllowed;
        assert_eq!(told, !hidden && !outside, "{reason}");
    }
}

/// Both ways: what is documented is taken, and what is taken is documented.
#[test]
fn the_types_of_tokens_are_those_that_are_taken() {
    use crate::identity::TokenType::{self, SelfSigned};
    let document = document(URL);
    let form = "/paths/~1token/post/requestBody/content/application~1x-www-form-urlencoded/schema";
    let types = |field: &str| -> Vec<TokenType> {
        let types = document.pointer(&format!("{form}/properties/{field}/enum"));
        let types = types.unwrap().as_array().unwrap().iter();
        let read = types.map(|urn| TokenType::parse(urn.as_str().unwrap()).unwrap());
        read.collect()
    };
    let asked = |token_type: &TokenType| match token_type {
        TokenType::Jwt
        | TokenType::IdToken
        | TokenType::AccessToken
        | TokenType::AwsSignedRequest => true,
        // An assertion has a parameter of its own.
        SelfSigned | TokenType::Assertion => false,
    };
    let (subjects, actors) = (types("subject_token_type"), types("actor_token_type"));
    assert!(actors.iter().all(asked));
    assert_eq!(actors.len(), 4);
    let more: Vec<_> = subjects.iter().filter(|of| !actors.contains(of)).collect();
    assert_eq!(more, [&SelfSigned]);
    assert_eq!(subjects.len(), 5);
}

#[test]
fn doors_that_read_a_proof_of_possession_say_so() {
    let document = document(URL);
    for (path, method, reads) in [
        ("/token", "post", true),
        ("/revoke", "post", true),
        ("/admin/v1/leases", "get", true),
        ("/introspect", "post", false),
        ("/enrol", "post", false),
        ("/jwks", "get", false),
    ] {
        let door = document["paths"][path][method].to_string();
        for told in [r#""name":"DPoP""#, r#""DPoP-Nonce""#, "`use_dpop_nonce`"] {
            assert_eq!(door.contains(told), reads, "{path}: {told}");
        }
    }
}

#[test]
fn the_identifiers_patterns_are_their_parsers() {
    let document = document(URL);
    let pattern = |name: &str| {
        let schema = &document["components"]["schemas"][name];
        schema["pattern"].as_str().unwrap().to_owned()
    };
    assert_eq!(pattern("AgentId"), pattern("TargetId"));
    let letters = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    for shard in crate::ids::ShardId::all() {
        let id = crate::ids::LeaseId::draw(shard).to_string();
        assert!(pattern("LeaseId").starts_with("^dfl[ab]"));
        assert!(id.starts_with("dfla") || id.starts_with("dflb"), "{id}");
        assert!(letters(&id), "{id}");
    }
}

/// The examples are what the types take: each is read as the type that the door reads.
#[test]
fn each_json_example_is_what_its_door_takes() {
    use crate::wire;
    fn reads<T: serde::de::DeserializeOwned>(example: &Value) -> bool {
        serde_json::from_value::<T>(example.clone()).is_ok()
    }
    let document = document(URL);
    let of = |path: &str, method: &str| {
        let operation = &document["paths"][path][method];
        let taken = operation["requestBody"]["content"]["application/json"]["example"].clone();
        let given = operation["responses"]["200"]["content"]["application/json"]["example"].clone();
        (taken, given)
    };
    let receipt = reads::<wire::RevocationReceipt>;
    let (taken, given) = of("/admin/v1/revocations", "post");
    assert!(reads::<wire::RevocationRequest>(&taken) && receipt(&given));
    let (taken, given) = of("/admin/v1/lifts", "post");
    assert!(reads::<wire::LiftRequest>(&taken) && receipt(&given));
    let (taken, given) = of("/admin/v1/find", "post");
    assert!(reads::<wire::FindRequest>(&taken) && reads::<wire::LeaseView>(&given));
    let (taken, given) = of("/admin/v1/explain", "post");
    assert!(reads::<wire::ExplainQuestion>(&taken) && reads::<wire::ExplainAnswer>(&given));
    let (taken, given) = of("/admin/v1/keys/rotate", "post");
    assert!(reads::<wire::RotateRequest>(&taken) && reads::<wire::RotateAnswer>(&given));
    let (taken, given) = of("/admin/v1/contexts/end", "post");
    assert!(reads::<wire::EndContextRequest>(&taken) && receipt(&given));
    assert!(receipt(&of("/admin/v1/revocations/{id}", "get").1));
    assert!(reads::<wire::LeaseView>(
        &of("/admin/v1/leases/{id}", "get").1
    ));
    assert!(reads::<wire::AgentView>(
        &of("/admin/v1/agents/{id}", "get").1
    ));
    assert!(reads::<wire::TokenResponse>(&of("/token", "post").1));
}
