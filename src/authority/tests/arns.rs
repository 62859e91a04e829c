//! Whether two ARNs share anything, as IAM reads them: its `*` runs across `:`.

use super::*;

fn on(location: &str) -> Authority {
    authority(&[(&["lambda:*"], &[location])])
}

#[test]
fn a_denial_is_not_escaped_by_writing_the_arn_differently() {
    let function = "arn:aws:lambda:*:*:function:checkout-prod";
    let asked = "arn:aws:lambda:*:*:checkout*";
    for (denied, asked) in [(function, asked), (asked, function)] {
        assert_eq!(Vocabulary::Aws.overlap(&on(denied), &on(asked)), Ok(true));
        let (left, cut) = Vocabulary::Aws.without(&on(asked), &on(denied)).unwrap();
        assert!(left.is_empty(), "{asked} under {denied}");
        assert_eq!(cut.unwrap().location.as_deref(), Some(asked));
    }
    let elsewhere = "arn:aws:lambda:*:*:function:billing";
    assert_eq!(
        Vocabulary::Aws.overlap(&on(function), &on(elsewhere)),
        Ok(false)
    );
}

#[test]
fn without_a_star_in_the_first_fields_each_field_is_its_own() {
    for (one, other) in [
        ("arn:aws:s3:::a*", "arn:aws:s3:eu::a*"),
        ("arn:aws:ecs:eu:1:*", "arn:aws:ecs:eu:2:*"),
        ("arn:aws:ecs:eu:1:a:*", "arn:aws:ecs:eu:1:b:*"),
    ] {
        assert_eq!(Vocabulary::Aws.overlap(&on(one), &on(other)), Ok(false));
    }
}

/// Every ARN `arn:a:a:REGION:ACCOUNT:RESOURCE` of few letters. Words are read as whole texts.
#[test]
fn arns_that_some_concrete_one_is_matched_by_both_of_overlap() {
    let write = |fields: &[String], resources: &[String]| -> Vec<String> {
        let mut all = Vec::new();
        for region in fields {
            for account in fields {
                for resource in resources.iter().filter(|text| !text.is_empty()) {
                    all.push(format!("arn:a:a:{region}:{account}:{resource}"));
                }
            }
        }
        all
    };
    let patterns = write(&words(&['a', '*'], 1), &words(&['a', ':', '*'], 3));
    let concrete = write(&words(&['a'], 1), &words(&['a', ':', 'b'], 4));
    let meaning: Vec<Vec<bool>> = patterns
        .iter()
        .map(|pattern| {
            concrete
                .iter()
                .map(|word| matches(pattern.as_bytes(), word.as_bytes()))
                .collect()
        })
        .collect();
    let mut across = 0;
    for (one, ones) in patterns.iter().zip(&meaning) {
        for (other, others) in patterns.iter().zip(&meaning) {
            if ones.iter().zip(others).any(|(one, other)| *one && *other) {
                let said = Vocabulary::Aws.overlap(&on(one), &on(other));
                assert_eq!(said, Ok(true), "{one} meets {other}");
                let mut fields = one.splitn(6, ':').zip(other.splitn(6, ':'));
                across += usize::from(!fields.all(|(one, other)| glob::overlap(one, other)));
            }
        }
    }
    assert!(across > 0, "none of them meet across a colon");
}
