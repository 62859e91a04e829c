//! What an organisation's policies forbid its operators.

use super::compile::{problem, validate};
use super::{PolicyError, rules};
use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, Policy as Rule, PolicySet, Request, RestrictedExpression, Schema,
};
use std::str::FromStr;
use time::OffsetDateTime;

/// As published.
pub const OPERATORS_SCHEMA: &str = include_str!("operators.cedarschema");

/// What an operator is about to do.
#[derive(Debug, Clone, Copy)]
pub struct Administration<'a> {
    pub name: &'a str,
    pub role: &'a str,
    pub break_glass: bool,
    /// The door's name: `operationId` of `GET /openapi.json`.
    pub action: &'a str,
    pub now: OffsetDateTime,
}

#[derive(Debug)]
pub(super) struct Operators {
    schema: Schema,
    forbids: PolicySet,
    is_empty: bool,
    operator: EntityTypeName,
    action: EntityTypeName,
    broker: EntityUid,
}

/// Why not.
#[derive(Debug)]
pub(super) enum Forbids {
    /// These policies.
    By(Vec<String>),
    /// It cannot be told.
    Untold(String),
}

/// Whether a policy is about operators: its action is named, and none that issues.
pub(super) fn is_about_operators(rule: &Rule) -> bool {
    let administers = |uid: &EntityUid| {
        let id: &str = uid.id().as_ref();
        id != "issue"
    };
    match rule.action_constraint() {
        ActionConstraint::Any => false,
        ActionConstraint::Eq(uid) => administers(&uid),
        ActionConstraint::In(uids) => uids.iter().all(administers),
    }
}

impl Operators {
    pub fn new<'a>(
        rules: &'a [Rule],
        text_of: impl Fn(&str) -> Option<(&'a str, usize)>,
    ) -> Result<Self, Vec<PolicyError>> {
        let broken = |error: &dyn std::fmt::Display| vec![problem("the operators' schema", error)];
        let (schema, _) =
            Schema::from_cedarschema_str(OPERATORS_SCHEMA).map_err(|error| broken(&error))?;
        let problems = validate(schema.clone(), rules.iter(), text_of);
        if !problems.is_empty() {
            return Err(problems);
        }
        let all = Rule::parse(None, "permit (principal, action, resource);");
        let all = all.map_err(|error| broken(&error))?;
        let forbids = PolicySet::from_policies(rules.iter().cloned().chain([all]))
            .map_err(|error| broken(&error))?;
        let kind = |name: &str| EntityTypeName::from_str(name).map_err(|error| broken(&error));
        let broker = kind("Dayfly::Broker")?;
        Ok(Self {
            schema,
            forbids,
            is_empty: rules.is_empty(),
            operator: kind("Dayfly::Operator")?,
            action: kind("Dayfly::Action")?,
            broker: EntityUid::from_type_name_and_id(broker, EntityId::new("broker")),
        })
    }

    // SECURITY: what cannot be put to Cedar, or cannot be evaluated there, is forbidden.
    pub fn allow(&self, asked: &Administration<'_>) -> Result<(), Forbids> {
        if self.is_empty {
            return Ok(());
        }
        let (request, entities) = self.question(asked).map_err(Forbids::Untold)?;
        let response = Authorizer::new().is_authorized(&request, &self.forbids, &entities);
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(Forbids::Untold(format!("could not be evaluated: {error}")));
        }
        if response.decision() == Decision::Allow {
            return Ok(());
        }
        let reasons = response.diagnostics().reason();
        Err(Forbids::By(reasons.map(ToString::to_string).collect()))
    }

    fn question(&self, asked: &Administration<'_>) -> Result<(Request, Entities), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let named = EntityId::new(asked.name);
        let principal = EntityUid::from_type_name_and_id(self.operator.clone(), named);
        let door = EntityId::new(asked.action);
        let action = EntityUid::from_type_name_and_id(self.action.clone(), door);
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let attributes = [
            ("name".to_owned(), text(asked.name)),
            ("role".to_owned(), text(asked.role)),
            (
                "break_glass".to_owned(),
                RestrictedExpression::new_bool(asked.break_glass),
            ),
        ];
        let operator = Entity::new(
            principal.clone(),
            attributes.into_iter().collect(),
            [].into(),
        )
        .map_err(|error| told(&error))?;
        let actions = self
            .schema
            .action_entities()
            .map_err(|error| told(&error))?;
        let entities = actions
            .add_entities([operator], None)
            .map_err(|error| told(&error))?;
        let (at, weekday) = rules::moment(asked.now);
        let context = [
            ("now".to_owned(), RestrictedExpression::new_datetime(at)),
            ("weekday".to_owned(), text(&weekday)),
        ];
        let context = Context::from_pairs(context).map_err(|error| told(&error))?;
        let resource = self.broker.clone();
        let request = Request::new(principal, action, resource, context, Some(&self.schema))
            .map_err(|error| told(&error))?;
        Ok((request, entities))
    }
}
