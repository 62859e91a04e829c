//! `[broker]`.

use super::decoder::Decoder;
use super::problem::Code;
use super::reader::Reader;
use super::settings::{BrokerSettings, MtlsSettings, StoreSettings};
use super::source::At;
use crate::http::{DoorSettings, ListenSettings, Network, Rate, TlsFiles};
use crate::jose::Algorithm;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// How old the view of everything revoked may be, where the configuration does not say.
pub const FENCE_VIEW_MAX_AGE: Duration = Duration::from_secs(1);

const PORT: u16 = 8420;
const HEALTH_PORT: u16 = 8421;

/// The url alone, which everything else refers to.
pub(in crate::config) fn url(reader: &Reader<'_>, decoder: &Decoder<'_>) -> Option<String> {
    let text = reader.required_text("url", "\"https://dayfly.example\"")?;
    let at = text.at;
    // The broker decides for itself whether it is a loopback one.
    let decoder = Decoder::new(decoder.doc, decoder.desk);
    let url = decoder.url(text)?.value;
    if url.ends_with('/') {
        let help = format!("write `url = \"{}\"`", url.trim_end_matches('/'));
        reader.bad(at, "the issuer identifier ends with a slash", &help);
        return None;
    }
    Some(url)
}

pub(in crate::config) fn decode(
    reader: &Reader<'_>,
    decoder: &Decoder<'_>,
    url: String,
) -> Option<BrokerSettings> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listen = parsed(reader, "listen", "127.0.0.1:8420").unwrap_or_else(|| local(PORT));
    let health =
        parsed(reader, "health_listen", "127.0.0.1:8421").unwrap_or_else(|| local(HEALTH_PORT));
    let tls = reader.table("tls").and_then(|tls| {
        let certificate = tls.required_text("certificate", "\"tls/certificate.pem\"");
        let key = tls.required_text("key", "\"tls/key.pem\"");
        let ask_client = tls.boolean("ask_client").unwrap_or(false);
        tls.finish();
        Some(TlsFiles {
            certificate: decoder.own_path(&certificate?.value),
            key: decoder.own_path(&key?.value),
            ask_client,
        })
    });
    let mtls = reader.table("mtls");
    let mtls = mtls.and_then(|table| mtls_of(table, decoder, tls.as_ref()));
    let store = reader.table("store");
    let store = reader
        .required("store", store, "{ embedded = \"dayfly.redb\" }")
        .and_then(|reader| store_of(&reader, decoder).map(|store| (store, reader)))
        .map(|(store, reader)| {
            let age = reader
                .duration(
                    "fence_view_max_age",
                    Duration::from_millis(100)..=Duration::from_secs(60),
                )
                .map_or(FENCE_VIEW_MAX_AGE, |age| age.value);
            reader.finish();
            (store, age)
        });
    let keys = keys(reader, decoder);
    let audit_path = reader.table("audit").and_then(|audit| {
        let path = audit.text("path");
        audit.finish();
        path
    });
    // Always exported: what is not cannot be trimmed, and would fill the store.
    let audit_path = decoder.own_path(
        audit_path
            .as_ref()
            .map_or("audit.jsonl", |path| &path.value),
    );
    let (doors, connections) = limits(reader);
    let dpop_nonce = nonce(reader);
    let published = reader.choice("config", &["folder", "published"]) == Some("published");
    let drain = reader.duration("drain", Duration::from_secs(0)..=Duration::from_secs(600));
    let mut listen = ListenSettings::on(listen);
    listen.tls = tls;
    if let Some(connections) = connections {
        listen.max_connections = connections;
    }
    if let Some(drain) = drain {
        listen.drain = drain.value;
    }
    let (store, fence_view_max_age) = store?;
    let (sealing_keys, access_token_algorithm) = keys?;
    Some(BrokerSettings {
        allow_loopback: url.starts_with("http:"),
        url,
        listen,
        mtls,
        health_listen: ListenSettings::on(health),
        doors,
        store,
        fence_view_max_age,
        sealing_keys,
        access_token_algorithm,
        dpop_nonce,
        published,
        audit_path,
    })
}

/// `{ url = "https://mtls.dayfly.example", listen = "0.0.0.0:8443" }`
fn mtls_of(
    reader: Reader<'_>,
    decoder: &Decoder<'_>,
    tls: Option<&TlsFiles>,
) -> Option<MtlsSettings> {
    let url = reader.required_text("url", "\"https://mtls.dayfly.example\"");
    let listen: Option<SocketAddr> = parsed(&reader, "listen", "0.0.0.0:8443");
    let certificate = reader.text("certificate");
    let key = reader.text("key");
    let own = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(TlsFiles {
            certificate: decoder.own_path(&certificate.value),
            key: decoder.own_path(&key.value),
            ask_client: true,
        }),
        (None, None) => tls.map(|tls| TlsFiles {
            ask_client: true,
            ..tls.clone()
        }),
        _ => None,
    };
    if listen.is_some() && own.is_none() {
        let help = "add `certificate` and `key`, or those of `tls`";
        reader.bad(reader.at, "certificates are shown over TLS only", help);
    }
    reader.finish();
    let listen = listen.map(|address| ListenSettings {
        tls: own,
        ..ListenSettings::on(address)
    });
    Some(MtlsSettings {
        url: decoder.url(url?)?.value.trim_end_matches('/').to_owned(),
        listen,
    })
}

fn parsed<T: FromStr>(reader: &Reader<'_>, key: &'static str, example: &str) -> Option<T> {
    let text = reader.text(key)?;
    let value = text.value.parse().ok();
    if value.is_none() {
        let message = format!("`{}` is not an address and a port", text.value);
        reader.bad(text.at, message, &format!("write `{key} = \"{example}\"`"));
    }
    value
}

fn store_of(reader: &Reader<'_>, decoder: &Decoder<'_>) -> Option<StoreSettings> {
    let embedded = reader.text("embedded");
    let redis = reader.text("redis");
    let replicas = reader.number("min_replicas", 0..=16);
    let ca = reader.text("ca");
    let (certificate, key) = (reader.text("certificate"), reader.text("key"));
    if certificate.is_some() != key.is_some() {
        let help = "write both or none: `certificate = \"redis.pem\", key = \"redis.key\"`";
        reader.bad(reader.at, "a certificate and its key belong together", help);
    }
    match (embedded, redis) {
        (Some(path), None) => {
            let help = "remove it, or use `redis`";
            for (name, what) in [
                ("min_replicas", "an embedded store has no replicas"),
                ("ca", "an embedded store is no server"),
                ("certificate", "an embedded store is no server"),
                ("key", "an embedded store is no server"),
            ] {
                if let Some(node) = reader.node(name) {
                    reader.bad(node.at, what, help);
                }
            }
            Some(StoreSettings::Embedded {
                path: decoder.own_path(&path.value),
            })
        }
        (None, Some(url)) => {
            let path = |text: At<String>| decoder.own_path(&text.value);
            Some(StoreSettings::Redis {
                url: decoder.own_reference(url)?.value,
                min_replicas: u32::try_from(replicas.unwrap_or(0)).unwrap_or(0),
                ca: ca.map(path),
                identity: certificate.map(path).zip(key.map(path)),
            })
        }
        (None, None) => {
            let help = "write `store = { embedded = \"dayfly.redb\" }` or \
                        `store = { redis = \"env:REDIS_URL\", min_replicas = 1 }`";
            decoder
                .desk
                .report(reader.at, Code::MissingKey, "the store is not named", help);
            None
        }
        (Some(_), Some(redis)) => {
            let help = "keep `embedded` for one node or `redis` for several";
            reader.bad(redis.at, "the store is named twice", help);
            None
        }
    }
}

/// References to the sealing keys, and the algorithm of access tokens.
fn keys(reader: &Reader<'_>, decoder: &Decoder<'_>) -> Option<(Vec<String>, Algorithm)> {
    let table = reader.table("keys");
    let example = "{ sealing = [\"file:sealing.key\"] }";
    let keys = reader.required("keys", table, example)?;
    let sealing = keys.required("sealing", keys.texts("sealing"), "[\"file:sealing.key\"]");
    let algorithm = keys
        .text("access_tokens")
        .map_or(Some(Algorithm::Es256), |name| {
            match Algorithm::parse(&name.value) {
                Some(known @ (Algorithm::Es256 | Algorithm::Ed25519)) => Some(known),
                _ => {
                    let problem = format!("`{}` does not sign access tokens", name.value);
                    keys.bad(name.at, problem, "write \"ES256\" or \"Ed25519\"");
                    None
                }
            }
        });
    let at = keys.at;
    keys.finish();
    let named = sealing?;
    let is_empty = named.is_empty();
    let sealing: Vec<_> = named
        .into_iter()
        .filter_map(|key: At<String>| Some(decoder.own_reference(key)?.value))
        .collect();
    if is_empty {
        let help = "name at least one; make it with `openssl rand -base64 32`";
        reader.bad(at, "there is no sealing key", help);
        return None;
    }
    (!sealing.is_empty()).then_some((sealing, algorithm?))
}

/// Demanded unless switched off: without one, whoever had an agent's key for a moment could make
/// proofs for later.
fn nonce(reader: &Reader<'_>) -> bool {
    reader.choice("dpop_nonce", &["required", "off"]) != Some("off")
}

/// The doors, and how many connections at once.
fn limits(reader: &Reader<'_>) -> (DoorSettings, Option<usize>) {
    let mut doors = DoorSettings::default();
    let Some(limits) = reader.table("limits") else {
        return (doors, None);
    };
    doors.rate = rate(
        &limits,
        ("requests_per_second", "requests_burst"),
        doors.rate,
    );
    doors.introspection_rate = rate(
        &limits,
        ("introspections_per_second", "introspections_burst"),
        doors.introspection_rate,
    );
    let count = |key| {
        let number = limits.number(key, 1..=1_000_000)?;
        usize::try_from(number).ok()
    };
    if let Some(concurrency) = count("concurrency") {
        doors.concurrency = concurrency;
    }
    let connections = count("connections");
    let bounds = Duration::from_secs(1)..=Duration::from_secs(300);
    if let Some(timeout) = limits.duration("request_timeout", bounds) {
        doors.request_timeout = timeout.value;
    }
    let certificates = limits.boolean("client_cert_header") == Some(true);
    for proxy in limits.texts("trusted_proxies").unwrap_or_default() {
        let help = "name the proxies' own addresses";
        match proxy.value.parse::<Network>() {
            // SECURITY: then every peer could name the address that it is counted under.
            Ok(network) if network.is_wider_than(1, 1) => {
                limits.bad(proxy.at, "this trusts everybody", help);
            }
            // SECURITY: whoever has an address in it says who a client is.
            Ok(network) if certificates && network.is_wider_than(24, 64) => {
                let problem = "with `client_cert_header` a network of proxies is at most a /24, or a /64 of IPv6";
                limits.bad(proxy.at, problem, help);
            }
            Ok(network) => doors.trusted_proxies.push(network),
            Err(error) => limits.bad(proxy.at, error.to_string(), ""),
        }
    }
    if certificates {
        doors.client_cert_header = true;
        if let (true, Some(node)) = (
            doors.trusted_proxies.is_empty(),
            limits.node("client_cert_header"),
        ) {
            let help = "name the proxies in `trusted_proxies`";
            limits.bad(node.at, "nobody's header is taken", help);
        }
    }
    limits.finish();
    (doors, connections)
}

fn rate(reader: &Reader<'_>, keys: (&'static str, &'static str), known: Rate) -> Rate {
    let number = |key| {
        let number = reader.number(key, 1..=10_000_000)?;
        NonZeroU32::new(u32::try_from(number).ok()?)
    };
    let per_second = number(keys.0).unwrap_or(known.per_second);
    Rate {
        per_second,
        burst: number(keys.1).unwrap_or_else(|| known.burst.max(per_second)),
    }
}
