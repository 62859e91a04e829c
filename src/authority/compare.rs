//! (action, location) pairs: the part of comparing that every vocabulary shares.

use super::{Authority, Permission, Undecidable};

/// What a vocabulary says about a single action and a single location.
pub(super) trait Terms {
    type Action;
    type Location;
    /// Whether a permission without locations means anything.
    const NEEDS_LOCATION: bool;

    fn action(text: &str) -> Result<Self::Action, &'static str>;
    /// Not called for the bare `*`.
    fn location(text: &str) -> Result<Self::Location, &'static str>;
    fn action_covers(ceiling: &Self::Action, asked: &Self::Action) -> bool;
    fn location_covers(ceiling: &Self::Location, asked: &Self::Location) -> bool;
    fn actions_overlap(one: &Self::Action, other: &Self::Action) -> bool;
    fn locations_overlap(one: &Self::Location, other: &Self::Location) -> bool;
    /// Why nothing real is ever at this location, where that is certain.
    fn is_nowhere(_location: &Self::Location) -> Option<&'static str> {
        None
    }
}

/// The first thing asked that the ceiling does not cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// JSON path within what was asked: `[0].actions[1]` where no permission of the ceiling has
    /// the action at all, `[0].locations[2]` where none has it on that location.
    pub place: String,
    pub action: String,
    pub location: Option<String>,
}

/// Where a permission holds.
enum Place<L> {
    /// The permission has no locations.
    Nowhere,
    /// The bare `*`.
    Anywhere,
    At(L),
}

struct Parsed<T: Terms> {
    actions: Vec<T::Action>,
    locations: Vec<Place<T::Location>>,
}

impl<T: Terms> Parsed<T> {
    fn has_action(&self, asked: &T::Action) -> bool {
        self.actions.iter().any(|own| T::action_covers(own, asked))
    }

    fn has_location(&self, asked: &Place<T::Location>) -> bool {
        self.locations.iter().any(|own| match (own, asked) {
            (Place::Anywhere, _) | (Place::Nowhere, Place::Nowhere) => true,
            (Place::At(own), Place::At(asked)) => T::location_covers(own, asked),
            _ => false,
        })
    }

    /// Whether anything at all of the pair lies within this permission.
    fn touches(&self, action: &T::Action, location: &Place<T::Location>) -> bool {
        self.actions
            .iter()
            .any(|own| T::actions_overlap(own, action))
            && self.locations.iter().any(|own| match (own, location) {
                (Place::At(own), Place::At(asked)) => T::locations_overlap(own, asked),
                _ => true,
            })
    }

    fn meets(&self, other: &Self) -> bool {
        let actions = self.actions.iter().any(|one| {
            other
                .actions
                .iter()
                .any(|other| T::actions_overlap(one, other))
        });
        actions
            && self.locations.iter().any(|one| {
                other.locations.iter().any(|other| match (one, other) {
                    (Place::Anywhere, _)
                    | (_, Place::Anywhere)
                    | (Place::Nowhere, Place::Nowhere) => true,
                    (Place::At(one), Place::At(other)) => T::locations_overlap(one, other),
                    _ => false,
                })
            })
    }
}

/// The ceiling's permissions, by number, that have one asked action or location.
type Having = Vec<bool>;

pub(super) fn outside<T: Terms>(
    ceiling: &Authority,
    asked: &Authority,
) -> Result<Option<Outside>, Undecidable> {
    let ceiling = parse::<T>("ceiling", ceiling)?;
    let parsed = parse::<T>("", asked)?;
    Ok(asked
        .0
        .iter()
        .zip(&parsed)
        .enumerate()
        .find_map(|(number, (text, parsed))| first_outside(&ceiling, number, text, parsed)))
}

fn first_outside<T: Terms>(
    ceiling: &[Parsed<T>],
    number: usize,
    text: &Permission,
    asked: &Parsed<T>,
) -> Option<Outside> {
    let at: Vec<Having> = asked
        .locations
        .iter()
        .map(|location| {
            ceiling
                .iter()
                .map(|own| own.has_location(location))
                .collect()
        })
        .collect();
    for (place, (name, action)) in text.actions.iter().zip(&asked.actions).enumerate() {
        let having: Having = ceiling.iter().map(|own| own.has_action(action)).collect();
        let nowhere = !having.contains(&true);
        // SECURITY: both halves of a pair must be found in one single permission: {A on x} and
        // {B on y} never add up to A on y.
        let missing = at
            .iter()
            .position(|located| !having.iter().zip(located).any(|(a, l)| *a && *l));
        let Some(missing) = missing else { continue };
        let location = text.locations.get(missing).cloned();
        let place = if nowhere || location.is_none() {
            format!("[{number}].actions[{place}]")
        } else {
            format!("[{number}].locations[{missing}]")
        };
        return Some(Outside {
            place,
            action: name.clone(),
            location,
        });
    }
    None
}

pub(super) fn overlap<T: Terms>(one: &Authority, other: &Authority) -> Result<bool, Undecidable> {
    let one = parse::<T>("", one)?;
    let other = parse::<T>("ceiling", other)?;
    Ok(one
        .iter()
        .any(|one| other.iter().any(|other| one.meets(other))))
}

/// What is left without the pairs that share anything with what is denied, and the first such pair.
///
/// SECURITY: a permission without locations may mean any of them, and a denial must not miss one.
pub(super) fn without<T: Terms>(
    authority: &Authority,
    denied: &Authority,
) -> Result<(Authority, Option<Outside>), Undecidable> {
    let parsed = parse::<T>("", authority)?;
    let denied = parse::<T>("denied", denied)?;
    let mut first = None;
    let mut left = Vec::new();
    for (number, (text, parsed)) in authority.0.iter().zip(&parsed).enumerate() {
        let mut kept = Vec::new();
        let mut whole = true;
        for (place, (name, action)) in text.actions.iter().zip(&parsed.actions).enumerate() {
            let mut locations = Vec::new();
            for (at, location) in parsed.locations.iter().enumerate() {
                let named = text.locations.get(at).cloned();
                if !denied.iter().any(|denied| denied.touches(action, location)) {
                    locations.push(named);
                    continue;
                }
                whole = false;
                first.get_or_insert_with(|| Outside {
                    place: format!("[{number}].actions[{place}]"),
                    action: name.clone(),
                    location: named,
                });
            }
            if !locations.is_empty() {
                kept.push(Permission {
                    actions: vec![name.clone()],
                    locations: locations.into_iter().flatten().collect(),
                });
            }
        }
        if whole {
            left.push(text.clone());
        } else {
            left.extend(kept);
        }
    }
    Ok((Authority(left), first))
}

pub(super) fn check<T: Terms>(authority: &Authority) -> Result<(), Undecidable> {
    parse::<T>("", authority).map(|_| ())
}

pub(super) fn fits_nothing<T: Terms>(permission: &Permission) -> Option<(&str, &'static str)> {
    let places = permission.locations.iter().filter(|text| *text != "*");
    places
        .filter_map(|text| Some((text.as_str(), T::location(text).ok()?)))
        .find_map(|(text, location)| Some((text, T::is_nowhere(&location)?)))
}

pub(super) fn narrow<T: Terms>(
    authority: &Authority,
    wanted: &[String],
) -> Result<Result<Authority, Outside>, Undecidable> {
    let parsed = parse::<T>("", authority)?;
    let mut actions = Vec::with_capacity(wanted.len());
    for (place, text) in wanted.iter().enumerate() {
        let action = T::action(text).map_err(|why| Undecidable::Pattern {
            place: format!("[{place}]"),
            pattern: text.clone(),
            why,
        })?;
        if !parsed.iter().any(|own| own.has_action(&action)) {
            return Ok(Err(Outside {
                place: format!("[{place}]"),
                action: text.clone(),
                location: None,
            }));
        }
        actions.push((text, action));
    }
    let kept = authority.0.iter().zip(&parsed).filter_map(|(own, parsed)| {
        let left: Vec<String> = actions
            .iter()
            .filter(|(_, action)| parsed.has_action(action))
            .map(|(text, _)| (*text).clone())
            .collect();
        (!left.is_empty()).then(|| Permission {
            actions: left,
            locations: own.locations.clone(),
        })
    });
    Ok(Ok(Authority(kept.collect())))
}

fn parse<T: Terms>(side: &str, authority: &Authority) -> Result<Vec<Parsed<T>>, Undecidable> {
    authority
        .0
        .iter()
        .enumerate()
        .map(|(number, permission)| parse_permission(&format!("{side}[{number}]"), permission))
        .collect()
}

fn parse_permission<T: Terms>(
    side: &str,
    permission: &Permission,
) -> Result<Parsed<T>, Undecidable> {
    let undecidable = |place: String, pattern: &str, why| Undecidable::Pattern {
        place,
        pattern: pattern.to_owned(),
        why,
    };
    // SECURITY: no actions would be covered by anything.
    if permission.actions.is_empty() {
        return Err(undecidable(format!("{side}.actions"), "", "name an action"));
    }
    if T::NEEDS_LOCATION && permission.locations.is_empty() {
        let place = format!("{side}.locations");
        return Err(undecidable(place, "", "name a location, or `*`"));
    }
    let mut actions = Vec::with_capacity(permission.actions.len());
    for (place, text) in permission.actions.iter().enumerate() {
        let action = T::action(text)
            .map_err(|why| undecidable(format!("{side}.actions[{place}]"), text, why))?;
        actions.push(action);
    }
    let mut locations = Vec::with_capacity(permission.locations.len().max(1));
    for (place, text) in permission.locations.iter().enumerate() {
        locations.push(if text == "*" {
            Place::Anywhere
        } else {
            let location = T::location(text)
                .map_err(|why| undecidable(format!("{side}.locations[{place}]"), text, why))?;
            Place::At(location)
        });
    }
    if locations.is_empty() {
        locations.push(Place::Nowhere);
    }
    Ok(Parsed { actions, locations })
}
