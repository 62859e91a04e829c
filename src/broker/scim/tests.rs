use super::*;
use serde_json::json;

fn message() -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{ "op": "replace", "path": "active", "value": false }],
    })
}

fn told(body: &Value) -> Result<bool, String> {
    let said = patched(body.to_string().as_bytes());
    said.map_err(|refusal| {
        assert_eq!(refusal.reason, Reason::MalformedRequest);
        refusal.at.unwrap()
    })
}

#[test]
fn what_identity_providers_send_is_understood() {
    let operation = |operation: Value| {
        let mut body = message();
        body["Operations"][0] = operation;
        told(&body)
    };
    assert_eq!(told(&message()), Ok(false));
    for (sent, active) in [
        // Okta.
        (
            json!({ "op": "replace", "value": { "active": false } }),
            false,
        ),
        (
            json!({ "op": "replace", "value": { "active": true } }),
            true,
        ),
        // Entra ID.
        (
            json!({ "op": "Replace", "path": "active", "value": "False" }),
            false,
        ),
        (
            json!({ "op": "Replace", "path": "active", "value": "True" }),
            true,
        ),
        (
            json!({ "op": "replace", "path": "urn:ietf:params:scim:schemas:core:2.0:User:active", "value": false }),
            false,
        ),
        (
            json!({ "Op": "REPLACE", "Path": "Active", "Value": true }),
            true,
        ),
    ] {
        assert_eq!(operation(sent.clone()), Ok(active), "{sent}");
    }
}

#[test]
fn whatever_else_a_patch_could_say_is_refused_where_it_says_so() {
    let good = message();
    for (pointer, value, at) in [
        ("", json!([]), "body"),
        ("/more", json!(1), "body"),
        ("/SCHEMAS", json!([]), "body"),
        ("/schemas", json!([]), "schemas"),
        (
            "/schemas",
            json!("urn:ietf:params:scim:api:messages:2.0:PatchOp"),
            "schemas",
        ),
        (
            "/schemas/0",
            json!("urn:ietf:params:scim:schemas:core:2.0:User"),
            "schemas",
        ),
        ("/Operations", json!([]), "Operations"),
        ("/Operations", json!({}), "Operations"),
        (
            "/Operations",
            json!([good["Operations"][0], { "op": "replace", "path": "title", "value": "x" }]),
            "Operations",
        ),
        ("/Operations/0", json!("replace"), "Operations"),
        ("/Operations/0/who", json!("me"), "Operations"),
        ("/Operations/0/op", json!("add"), "op"),
        ("/Operations/0/op", json!("remove"), "op"),
        ("/Operations/0/path", json!("userName"), "path"),
        ("/Operations/0/path", json!("active eq true"), "path"),
        ("/Operations/0/path", json!(null), "path"),
        ("/Operations/0/value", json!(null), "value"),
        ("/Operations/0/value", json!("no"), "value"),
        ("/Operations/0/value", json!(0), "value"),
        ("/Operations/0/value", json!({ "active": false }), "value"),
        (
            "/Operations/0",
            json!({ "op": "replace", "value": { "active": false, "title": "x" } }),
            "value",
        ),
        (
            "/Operations/0",
            json!({ "op": "replace", "value": {} }),
            "value",
        ),
        (
            "/Operations/0",
            json!({ "op": "replace", "path": "active" }),
            "value",
        ),
    ] {
        let mut body = good.clone();
        match body.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => {
                let (above, name) = pointer.rsplit_once('/').unwrap();
                body.pointer_mut(above).unwrap()[name] = value;
            }
        }
        assert_eq!(told(&body), Err(at.to_owned()), "{body}");
    }
    assert_eq!(patched(b"{").unwrap_err().at.unwrap(), "body");
}
