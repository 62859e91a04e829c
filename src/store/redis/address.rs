//! The address of a store: where it begins to look, as whom, and what it expects to find there.

use crate::secret::Secret;
use crate::store::{Fault, StoreError};
use std::fmt;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A server: a name or an address without brackets, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub host: String,
    pub port: u16,
}

impl Place {
    pub(super) fn parse(text: &str, port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']')? {
                (host, "") => (host, port),
                (host, rest) => (host, rest.strip_prefix(':')?.parse().ok()?),
            },
            None => match text.rsplit_once(':') {
                Some((host, number)) => (host, number.parse().ok()?),
                None => (text, port),
            },
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        (!host.is_empty() && host.chars().all(fits)).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The primary's own address; the number of the database.
    One { place: Place, database: String },
    /// Whoever the sentinels say is the primary of this name.
    Sentinel {
        sentinels: Vec<Place>,
        primary: String,
        /// As whom the sentinels are asked: `user:password@`, or nothing.
        user: Secret<String>,
    },
    /// Any of its nodes tell of the others.
    Cluster { seeds: Vec<Place> },
}

#[derive(Debug)]
pub(super) struct Address {
    pub tls: bool,
    /// As whom the servers are asked, as it stands in the URL: `user:password@`, or nothing.
    pub user: Secret<String>,
    pub kind: Kind,
}

impl Address {
    // SECURITY: no message quotes the URL, which may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        Self::parts(url).ok_or_else(|| {
            Fault::Address
                .found(
                    "the Redis address does not parse; write redis://HOST:PORT, \
                     redis+sentinel://HOST:PORT,HOST:PORT/NAME or redis+cluster://HOST:PORT,HOST:PORT, \
                     with rediss for TLS and USER:PASSWORD@ (percent-encoded) in front of the host",
                )
                .into()
        })
    }

    fn parts(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        // SECURITY: to other programs `#insecure` means that any certificate will do.
        if rest.contains('#') {
            return None;
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return None,
        };
        let port = if kind == "sentinel" {
            SENTINEL_PORT
        } else {
            PORT
        };
        let places: Vec<_> = hosts
            .split(',')
            .map(|host| Place::parse(host, port))
            .collect::<Option<_>>()?;
        let kind = match (kind, places.as_slice()) {
            ("", [place]) if query.is_empty() => Kind::One {
                place: place.clone(),
                database: database(path)?,
            },
            ("cluster", _) if query.is_empty() && path.is_empty() => {
                Kind::Cluster { seeds: places }
            }
            ("sentinel", _) if is_name(path) => Kind::Sentinel {
                sentinels: places,
                primary: path.to_owned(),
                user: Secret::new(sentinel_user(query)?),
            },
            _ => return None,
        };
        Some(Self {
            tls,
            user: Secret::new(user),
            kind,
        })
    }
}

fn database(path: &str) -> Option<String> {
    let digits = path.chars().all(|c| c.is_ascii_digit());
    (digits && path.len() < 6).then(|| path.to_owned())
}

fn is_name(path: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    !path.is_empty() && path.chars().all(fits)
}

/// `sentinel_user=NAME&sentinel_password=SECRET`, both percent-encoded.
fn sentinel_user(query: &str) -> Option<String> {
    let (mut name, mut password) = ("", None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=')? {
            ("sentinel_user", value) => name = value,
            ("sentinel_password", value) => password = Some(value),
            _ => return None,
        }
    }
    match password {
        Some(password) => Some(format!("{name}:{password}@")),
        None if name.is_empty() => Some(String::new()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> Option<String> {
        let address = Address::parts(url)?;
        let user = address.user.expose();
        let list = |places: &[Place]| {
            let places: Vec<_> = places.iter().map(ToString::to_string).collect();
            places.join(" ")
        };
        let kind = match &address.kind {
            Kind::One { place, database } => format!("{place} db={database}"),
            Kind::Sentinel {
                sentinels,
                primary,
                user,
            } => format!("{} of {} as {}", primary, list(sentinels), user.expose()),
            Kind::Cluster { seeds } => list(seeds),
        };
        Some(format!("{} {user} {kind}", address.tls))
    }

    #[test]
    fn each_kind_of_address_is_read() {
        for (url, expected) in [
            ("redis://a", "false  a:6379 db="),
            ("redis://a:1/2", "false  a:1 db=2"),
            ("rediss://u:p@[::1]:7", "true u:p@ [::1]:7 db="),
            (
                "redis+sentinel://u:p%40@a,b:7/main",
                "false u:p%40@ main of a:26379 b:7 as ",
            ),
            (
                "rediss+sentinel://a/main?sentinel_user=x&sentinel_password=y",
                "true  main of a:26379 as x:y@",
            ),
            ("redis+cluster://:p@a:1,b:2", "false :p@ a:1 b:2"),
        ] {
            assert_eq!(shown(url).as_deref(), Some(expected), "{url}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in [
            "a:6379",
            "http://a",
            "redis://",
            "redis://a,b",
            "redis://a/x",
            "redis://a?protocol=resp3",
            "rediss://a/#insecure",
            "redis+unix:///tmp/redis",
            "redis+sentinel://a",
            "redis+sentinel://a/main?sentinel_user=x",
            "redis+sentinel://a/main?quorum=1",
            "redis+cluster://a/1",
            "redis://a:70000",
        ] {
            assert_eq!(shown(url), None, "{url}");
        }
    }
}
