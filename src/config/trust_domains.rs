//! `[trust_domain.NAME]`, and from SPIFFE IDs to agents.

use super::decoder::Decoder;
use super::document::Entry;
use super::problem::Code;
use super::reader::Reader;
use super::secrets::Reference;
use super::source::{At, Place};
use crate::agents::IdentityMatch;
use crate::identity::{BundleSource, SpiffeId, TrustDomainSettings, is_trust_domain};
use crate::ids::IssuerId;
use crate::jose::TrustBundle;
use std::collections::BTreeMap;
use std::time::Duration;

const LONGEST_TOKEN: Duration = Duration::from_secs(24 * 60 * 60);
/// SPIRE's own default is five minutes.
const MAX_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// By the name of the trust domain; `None` for those with problems of their own.
#[derive(Debug, Default)]
pub(in crate::config) struct TrustDomains {
    known: BTreeMap<String, (Option<TrustDomainSettings>, Place)>,
}

impl TrustDomains {
    pub fn decode(decoder: &Decoder<'_>, broker_url: &str) -> Self {
        let mut domains = Self::default();
        for entry in decoder.doc.of("trust_domain") {
            let (name, settings) = trust_domain(decoder, entry, broker_url);
            let value = (settings, entry.at);
            if let Some((_, other)) = domains.known.insert(name.clone(), value) {
                let message = format!("the trust domain `{name}` stands twice");
                decoder
                    .desk
                    .collision(entry.at, Code::Duplicate, message, "keep one", other);
            }
        }
        domains
    }

    /// `{ spiffe = "spiffe://acme.test/ns/shop/sa/checkout" }`: exactly this workload.
    pub fn identity(&self, decoder: &Decoder<'_>, reader: Reader<'_>) -> Option<IdentityMatch> {
        let text = reader.text("spiffe");
        reader.finish();
        let text = text?;
        let Some(id) = SpiffeId::parse(&text.value) else {
            let message = format!("`{}` is not the SPIFFE ID of a workload", text.value);
            let help = "write `spiffe://TRUST-DOMAIN/PATH`, whole: there are no wildcards";
            decoder.desk.report(text.at, Code::BadValue, message, help);
            return None;
        };
        let name = id.trust_domain();
        let Some((settings, _)) = self.known.get(name) else {
            let message = format!("there is no trust domain `{name}`");
            let help = format!("add `[trust_domain.\"{name}\"]` with its `bundle`");
            decoder
                .desk
                .report(text.at, Code::UnknownIssuer, message, &help);
            return None;
        };
        Some(IdentityMatch {
            issuer: settings.as_ref()?.id.clone(),
            subject: Some(id.as_str().to_owned()),
            claims: BTreeMap::new(),
        })
    }

    pub fn finish(self) -> Vec<TrustDomainSettings> {
        self.known
            .into_values()
            .filter_map(|(settings, _)| settings)
            .collect()
    }
}

fn trust_domain(
    decoder: &Decoder<'_>,
    entry: &Entry,
    broker_url: &str,
) -> (String, Option<TrustDomainSettings>) {
    let reader = entry.reader(decoder.desk);
    let domain = domain(&reader, entry);
    let bundle = bundle(decoder, &reader);
    let audiences = reader.texts("audience").map_or_else(
        || vec![broker_url.to_owned()],
        |list| list.into_iter().map(|audience| audience.value).collect(),
    );
    let single_use = reader.boolean("single_use").unwrap_or(false);
    let longest = reader
        .duration("max_lifetime", Duration::from_secs(1)..=LONGEST_TOKEN)
        .map_or(MAX_LIFETIME, |longest| longest.value);
    let id: Option<IssuerId> = entry.name.parse().ok();
    if entry.name == IssuerId::client().as_str() {
        let message = "the name `client` belongs to agents with keys of their own";
        let help = "rename `[trust_domain.client]`";
        decoder.desk.report(reader.at, Code::BadName, message, help);
    }
    if let Some(other) = decoder.doc.find("issuer", &entry.name) {
        let message = format!("an issuer and a trust domain are called `{}`", entry.name);
        let help = "rename one: leases and revocations name them";
        decoder
            .desk
            .collision(reader.at, Code::Duplicate, message, help, other.at);
    }
    reader.finish();
    let name = domain.clone().unwrap_or_else(|| entry.name.clone());
    let settings = id.zip(domain).zip(bundle);
    let settings = settings.map(|((id, domain), bundle)| TrustDomainSettings {
        id,
        domain,
        bundle,
        audiences,
        single_use,
        max_lifetime: longest,
    });
    (name, settings)
}

/// The table's own name, where it says nothing else.
fn domain(reader: &Reader<'_>, entry: &Entry) -> Option<String> {
    let named = reader.text("domain");
    let named = named.unwrap_or_else(|| At::new(reader.at, entry.name.clone()));
    if is_trust_domain(&named.value) {
        return Some(named.value);
    }
    let message = format!("`{}` is not the name of a trust domain", named.value);
    let help = "write `domain = \"acme.example\"`, without `spiffe://` and without a path";
    reader.bad(named.at, message, help);
    None
}

/// `file:bundle.json` or the https URL of a bundle endpoint, whose certificate `ca` vouches for.
fn bundle(decoder: &Decoder<'_>, reader: &Reader<'_>) -> Option<BundleSource> {
    let example = "\"file:bundle.json\"";
    let text = reader.required_text("bundle", example);
    let ca = reader.text("ca");
    let text = text?;
    if text.value.starts_with("http") {
        let url = decoder.url(text)?.value;
        let ca = match ca {
            Some(ca) => Some(decoder.certificates(ca)?),
            None => None,
        };
        return Some(BundleSource::Endpoint { url, ca });
    }
    if let Some(ca) = ca {
        let help = "remove it: a file comes from nobody over TLS";
        reader.bad(ca.at, "`ca` is for bundle endpoints", help);
    }
    let Ok(Reference::File(path)) = Reference::parse(&text.value) else {
        let message = format!("`{}` does not name a trust bundle", text.value);
        let help = "write `file:bundle.json`, or the https URL of a bundle endpoint";
        decoder.desk.report(text.at, Code::BadKeys, message, help);
        return None;
    };
    if !decoder.may_read(path, text.at) {
        return None;
    }
    let path = decoder.path(&path.to_string_lossy());
    // It is replaced while the broker runs, and may not be on the machine that checks: one that is
    // not there yet lets nobody in until it is. Where the files were read before, nothing is asked again.
    if decoder.kept.is_none()
        && let Ok(bytes) = std::fs::read(&path)
        && let Err(error) = TrustBundle::parse(&bytes)
    {
        let message = format!("`{}` is no trust bundle: {error}", path.display());
        let help = "write it with `spire-server bundle show -format spiffe`";
        decoder.desk.report(text.at, Code::BadKeys, message, help);
        return None;
    }
    Some(BundleSource::File(path))
}
