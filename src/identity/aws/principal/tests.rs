use super::*;
use proptest::prelude::*;
use serde_json::json;

const ACCOUNT: &str = "111122223333";
const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/checkout-deploy/i-0abc";
const ROLE_ID: &str = "AROAEXAMPLEEXAMPLE123";

fn answer(arn: &str, user_id: &str, account: &str) -> String {
    format!(
        r#"<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>{arn}</Arn>
    <UserId>{user_id}</UserId>
    <Account>{account}</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>"#
    )
}

fn good() -> String {
    answer(SESSION, &format!("{ROLE_ID}:i-0abc"), ACCOUNT)
}

#[test]
fn a_session_is_its_role_and_a_user_is_itself() {
    assert_eq!(
        Value::Object(claims(&good()).unwrap()),
        json!({
            "sub": "arn:aws:iam::111122223333:role/checkout-deploy", "arn": SESSION,
            "account": ACCOUNT, "partition": "aws", "role": "checkout-deploy",
            "role_id": ROLE_ID, "session": "i-0abc",
        })
    );
    let user = answer(
        "arn:aws-cn:iam::111122223333:user/team/a/octavia",
        "AIDAEXAMPLEEXAMPLE123",
        ACCOUNT,
    );
    let claims = claims(&user).unwrap();
    assert_eq!(claims["sub"], "arn:aws-cn:iam::111122223333:user/octavia");
    assert_eq!(claims["user_id"], "AIDAEXAMPLEEXAMPLE123");
    assert!(!claims.contains_key("role"));
}

#[test]
fn a_principal_that_is_no_role_and_no_user_is_nobody() {
    let id = format!("{ROLE_ID}:i-0abc");
    for (arn, user_id, account) in [
        ("arn:aws:iam::111122223333:root", ACCOUNT, ACCOUNT),
        (
            "arn:aws:sts::111122223333:federated-user/octavia",
            "111122223333:octavia",
            ACCOUNT,
        ),
        (SESSION, id.as_str(), "999999999999"),
        (SESSION, "AROAEXAMPLEEXAMPLE123:another", ACCOUNT),
        (SESSION, "AIDAEXAMPLEEXAMPLE123:i-0abc", ACCOUNT),
        (SESSION, ROLE_ID, ACCOUNT),
        (SESSION, "aroaexampleexample123:i-0abc", ACCOUNT),
        (
            "arn:aws:sts::111122223333:assumed-role/checkout-deploy/a/i-0abc",
            id.as_str(),
            ACCOUNT,
        ),
        (
            "arn:aws:iam::111122223333:assumed-role/checkout-deploy/i-0abc",
            id.as_str(),
            ACCOUNT,
        ),
        (
            "arn:evil:sts::111122223333:assumed-role/checkout-deploy/i-0abc",
            id.as_str(),
            ACCOUNT,
        ),
        (
            "arn:aws:sts:eu-west-1:111122223333:assumed-role/checkout-deploy/i-0abc",
            id.as_str(),
            ACCOUNT,
        ),
        (
            "arn:aws:iam::111122223333:user/octavia",
            "AROAEXAMPLEEXAMPLE123",
            ACCOUNT,
        ),
        ("", "", ""),
    ] {
        assert!(
            claims(&answer(arn, user_id, account)).is_err(),
            "{arn} {user_id} {account}"
        );
    }
}

#[test]
fn an_answer_has_one_reading_or_none() {
    let good = good();
    assert!(claims(&good).is_ok());
    for bad in [
        good.replace("GetCallerIdentity", "AssumeRole"),
        good.replace("<GetCallerIdentityResult>", ""),
        good.replace(
            "</Arn>",
            "</Arn><Arn>arn:aws:iam::111122223333:user/x</Arn>",
        ),
        good.replace("<Arn>", "<!-- --><Arn>"),
        good.replace("<Arn>", "<Arn><![CDATA[")
            .replace("</Arn>", "]]></Arn>"),
        good.replace("checkout-deploy", "checkout&#45;deploy"),
        good.replace("<Account>111122223333</Account>", ""),
        good.clone() + &good,
        String::new(),
        r#"{"GetCallerIdentityResponse":{"GetCallerIdentityResult":{}}}"#.to_owned(),
    ] {
        assert!(claims(&bad).is_err(), "{bad}");
    }
}

#[test]
fn what_sts_may_do_better_later_is_told_from_a_no() {
    let error =
        |code: &str| format!("<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>");
    assert!(is_throttled(400, &error("Throttling")));
    assert!(is_throttled(429, ""));
    assert!(!is_throttled(403, &error("SignatureDoesNotMatch")));
    assert_eq!(
        shown(403, &error("Invalid<b>Client")),
        "STS answered with status 403 InvalidbClient"
    );
}

proptest! {
    #[test]
    fn no_answer_is_too_strange(text in ".{0,400}") {
        let _ = claims(&text);
        let _ = shown(200, &text);
    }

    #[test]
    fn whatever_stands_in_an_element_names_a_whole_principal_or_nobody(arn in "[a-z:/<>-]{0,60}", id in "[A-Z:a-z<>]{0,30}") {
        if let Ok(claims) = claims(&answer(&arn, &id, ACCOUNT)) {
            prop_assert_eq!(claims["account"].as_str(), Some(ACCOUNT));
        }
    }
}
