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
        for answer in answers {
            match answer {
                Ok(Told::Nobody) => heard += 1,
                Ok(Told::Primary(place)) => {
                    heard += 1;
                    *named.entry(place).or_default() += 1;
                }
                Err(error) => silent = error.to_string(),
            }
        }
        let all = self.places.len();
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
        let mut connection = self.door.open(place).await?;
        let answer: Result<HashMap<String, String>, _> = ::redis::cmd("SENTINEL")
            .arg("MASTER")
            .arg(&self.primary)
            .query_async(&mut connection)
            .await;
        let said = match answer {
            Ok(said) => said,
            Err(error) if error.to_string().contains("No such master") => return Ok(Told::Nobody),
            Err(error) => return Err(super::connection::connecting(&error)),
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
