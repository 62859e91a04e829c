//! Who is the primary, as the sentinels say. In: the sentinels' addresses. Out: one place, or why
//! nobody may be believed.

use super::address::Place;
use super::connection::Door;
use crate::store::{Fault, StoreError};
use futures_util::future::join_all;
use std::collections::HashMap;

pub(super) struct Sentinels {
    pub door: Door,
    pub places: Vec<Place>,
    pub primary: String,
}

enum Told {
    Primary { epoch: u64, place: Place },
    Nobody,
}

impl Sentinels {
    /// Asks all of them.
    pub(super) async fn primary(&self) -> Result<Place, StoreError> {
        let answers = join_all(self.places.iter().map(|place| self.ask(place))).await;
        let mut heard = 0;
        let mut latest: Option<(u64, Place)> = None;
        let mut silent = String::from("none was asked");
        for answer in answers {
            match answer {
                Ok(Told::Nobody) => heard += 1,
                Ok(Told::Primary { epoch, place }) => {
                    heard += 1;
                    if latest.as_ref().is_none_or(|(known, _)| epoch > *known) {
                        latest = Some((epoch, place));
                    }
                }
                Err(error) => silent = error.to_string(),
            }
        }
        // SECURITY: cut off together with an old primary, the fewer sentinels still call it the
        // primary. The failover is on the side of the more of them, and has the higher epoch.
        if heard * 2 <= self.places.len() {
            return Err(StoreError::Unavailable(format!(
                "{heard} of {} sentinels answer; more than half must ({silent})",
                self.places.len()
            )));
        }
        match latest {
            Some((_, place)) => Ok(place),
            None => {
                let message = format!(
                    "the sentinels watch no primary `{}`; the last part of the address is its name",
                    self.primary
                );
                Err(Fault::UnknownPrimary.found(message).into())
            }
        }
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
        Ok(Told::Primary {
            epoch: part("config-epoch")
                .and_then(|epoch| epoch.parse().ok())
                .unwrap_or(0),
            place: Place {
                host: host.to_owned(),
                port,
            },
        })
    }
}
