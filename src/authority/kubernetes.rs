//! Kubernetes verbs on resources of a namespace: `get` on `shop/pods`, `patch` on
//! `shop/deployments.apps/scale`.
//!
//! As RBAC reads them ("Using RBAC Authorization", "Referring to resources"): a resource is not its
//! subresources, `*` stands for a whole part only, the resource `*` is every resource and every subresource,
//! `*/scale` is that subresource of every resource. The namespace `*` is every namespace.

use super::compare::Terms;

pub(super) enum Kubernetes {}

pub(super) struct Place {
    /// `None`: every one.
    namespace: Option<String>,
    resource: Resource,
}

enum Resource {
    All,
    /// This subresource of every resource.
    Every {
        subresource: String,
    },
    /// `pods`, `deployments.apps/scale`.
    One {
        name: String,
        subresource: Option<String>,
    },
}

impl Terms for Kubernetes {
    /// `None`: every verb.
    type Action = Option<String>;
    type Location = Place;
    const NEEDS_LOCATION: bool = true;

    fn action(text: &str) -> Result<Option<String>, &'static str> {
        match text {
            "*" => Ok(None),
            verb if is_word(verb) => Ok(Some(verb.to_owned())),
            _ => Err("a verb is small letters, e.g. `get`, or `*`"),
        }
    }

    fn location(text: &str) -> Result<Place, &'static str> {
        let mut parts = text.split('/');
        let (namespace, resource) = (parts.next(), parts.next());
        let subresource = parts.next();
        let (Some(namespace), Some(resource), None) = (namespace, resource, parts.next()) else {
            return Err(
                "write `namespace/resource`, e.g. `shop/deployments.apps`, or with `/subresource`",
            );
        };
        let namespace = match namespace {
            "*" => None,
            name if is_label(name) => Some(name.to_owned()),
            _ => return Err("a namespace is small letters, digits and `-`, or `*`"),
        };
        if subresource.is_some_and(|name| !is_word(name)) {
            return Err("a subresource is small letters, e.g. `log`");
        }
        let subresource = subresource.map(str::to_owned);
        let resource = match (resource, subresource) {
            ("*", None) => Resource::All,
            ("*", Some(subresource)) => Resource::Every { subresource },
            (name, subresource) if name.split('.').all(is_label) => Resource::One {
                name: name.to_owned(),
                subresource,
            },
            _ => {
                return Err(
                    "a resource is its plural and its group, e.g. `deployments.apps`, or `*`",
                );
            }
        };
        Ok(Place {
            namespace,
            resource,
        })
    }

    fn action_covers(ceiling: &Option<String>, asked: &Option<String>) -> bool {
        ceiling.is_none() || ceiling == asked
    }

    fn location_covers(ceiling: &Place, asked: &Place) -> bool {
        let namespace = ceiling.namespace.is_none() || ceiling.namespace == asked.namespace;
        namespace
            && match (&ceiling.resource, &asked.resource) {
                (Resource::All, _) => true,
                (_, Resource::All) => false,
                (Resource::Every { subresource: own }, asked) => asked.subresource() == Some(own),
                (Resource::One { .. }, Resource::Every { .. }) => false,
                (
                    Resource::One { name, subresource },
                    Resource::One {
                        name: asked,
                        subresource: asked_sub,
                    },
                ) => name == asked && subresource == asked_sub,
            }
    }

    fn actions_overlap(one: &Option<String>, other: &Option<String>) -> bool {
        one.is_none() || other.is_none() || one == other
    }

    fn locations_overlap(one: &Place, other: &Place) -> bool {
        let namespace = one.namespace.is_none()
            || other.namespace.is_none()
            || one.namespace == other.namespace;
        namespace
            && match (&one.resource, &other.resource) {
                (Resource::All, _) | (_, Resource::All) => true,
                (
                    Resource::One { name, subresource },
                    Resource::One {
                        name: other,
                        subresource: other_sub,
                    },
                ) => name == other && subresource == other_sub,
                (one, other) => one.subresource() == other.subresource(),
            }
    }
}

impl Resource {
    fn subresource(&self) -> Option<&String> {
        match self {
            Self::All => None,
            Self::Every { subresource } => Some(subresource),
            Self::One { subresource, .. } => subresource.as_ref(),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase())
}

/// RFC 1123, as Kubernetes names namespaces and groups.
fn is_label(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(fits) && !text.starts_with('-') && !text.ends_with('-')
}
