//! Who is the primary, as the sentinels say. In: the sentinels' addresses. Out: one place, or why
//! nobody may be believed.

use super::address::Place;
use super::connection::Door;
use crate::store::{Fault, StoreError};
use futures_util::future::join_all;
use std::collections::{BTreeMap, HashMap};

pub(super) struct Sentinels {
    pub door: Door,
    pub places: Vec<Place>,
    pub primary: String,
}

enum Told {
    Primary(Place),
    Nobody,
}

impl Sentinels {
    /// Asks all of them.
    pub(super) async fn primary(&self) -> Result<Place, StoreError> {
        let answers = join_all(self.places.iter().map(|place| self.ask(place))).await;
        let mut heard = 0;
        let mut named: BTreeMap<Place, usize> = BTreeMap::new();
        let mut silent = String::from("none was asked");
        let mut refused = Vec::new();
        for answer in answers {
            match answer {
                Ok(Told::Nobody) => heard += 1,
                Ok(Told::Primary(place)) => {
                    heard += 1;
                    *named.entry(place).or_default() += 1;
                }
                Err(StoreError::Unfit(finding)) if finding.fault == Fault::UserRefused => {
                    silent.clone_from(&finding.message);
                    refused.push(finding);
                }
                Err(error) => silent = error.to_string(),
            }
        }
        let all = self.places.len();
        // Only where that is what keeps it from an answer: one that is down may be the reason as well.
        if heard * 2 <= all
            && (heard + refused.len()) * 2 > all
            && let Some(finding) = refused.pop()
        {
            return Err(finding.into());
        }
        if heard * 2 <= all {
            return Err(StoreError::Unavailable(format!(
                "{heard} of {all} sentinels answer; more than half must ({silent})"
            )));
        }
        if named.is_empty() {
            let message = format!(
                "the sentinels watch no primary `{}`; the last part of the address is its name",
                self.primary
            );
            return Err(Fault::UnknownPrimary.found(message).into());
        }
        // SECURITY: cut off together with an old primary, the fewer sentinels still call it the primary; and one
        // that lies says any epoch. So more than half of those that are configured name one place.
        let most = named.into_iter().find(|(_, voices)| voices * 2 > all);
        most.map(|(place, _)| place).ok_or_else(|| {
            let message = format!("fewer than half of {all} sentinels name the same primary");
            StoreError::Unavailable(message)
        })
    }

    async fn ask(&self, place: &Place) -> Result<Told, StoreError> {
        let opened = self.door.open(place).await;
        let mut connection = opened.map_err(|error| of_a_sentinel(error, place))?;
        let answer: Result<HashMap<String, String>, _> = ::redis::cmd("SENTINEL")
            .arg("MASTER")
            .arg(&self.primary)
            .query_async(&mut connection)
            .await;
        let said = match answer {
            Ok(said) => said,
            Err(error) if error.to_string().contains("No such master") => return Ok(Told::Nobody),
            Err(error) => {
                let error = super::connection::connecting(&error, place);
                return Err(of_a_sentinel(error, place));
            }
        };
        let part = |name| said.get(name).map(String::as_str);
        let place = part("ip").zip(part("port").and_then(|port| port.parse().ok()));
        let (host, port) = place
            .filter(|(host, _)| !host.is_empty())
            .ok_or_else(|| StoreError::Unavailable("a sentinel names no address".to_owned()))?;
        Ok(Told::Primary(Place {
            host: host.to_owned(),
            port,
        }))
    }
}

/// Sentinels have users of their own: whoever reads this must not look at the primary's.
fn of_a_sentinel(error: StoreError, place: &Place) -> StoreError {
    match error {
        StoreError::Unfit(finding) if finding.fault == Fault::UserRefused => {
            let message = format!(
                "the sentinel at {place} refuses its user or password, or lets the user run no SENTINEL MASTER; \
                 they are `sentinel_user` and `sentinel_password` behind the `?` of the address, and \
                 not those of the primary"
            );
            Fault::UserRefused.found(message).into()
        }
        other => other,
    }
}
