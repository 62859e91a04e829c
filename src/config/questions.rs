//! Where a platform is asked: for its keys (`private_network`, `ca`), and beside them
//! (`token_review`, `endpoints`), of `[issuer.NAME]`.

use super::decoder::Decoder;
use super::problem::Code;
use super::reader::Reader;
use super::secrets::secret_reference;
use super::source::At;
use super::tree::Raw;
use crate::identity::presets::Preset;
use crate::identity::{IssuerSettings, KeySource, PinSettings, ReviewSettings};
use crate::secret::Renewed;
use std::path::Path;
use std::time::Duration;
use url::Url;

/// Shorter, and a refresh that is late by a minute locks everybody out; longer, and a key that was withdrawn
/// while nobody could be asked lives on for days.
const KEYS_MAX_AGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10 * 60)..=Duration::from_secs(24 * 3600);

/// `private_network = true`, `ca = "file:issuer-ca.pem"`: an issuer inside of an organisation; and
/// `keys_max_age`.
pub(in crate::config) fn further(
    decoder: &Decoder<'_>,
    reader: &Reader<'_>,
    settings: &mut IssuerSettings,
) {
    settings.private_network = reader.boolean("private_network").unwrap_or(false);
    let ca = reader.text("ca");
    let fetches = !matches!(settings.keys, KeySource::Fixed(_)) && settings.sts.is_empty();
    if let Some(ca) = &ca
        && (!fetches || settings.review.is_some())
    {
        let help =
            "remove it: `token_review` has a `ca` of its own, and what is fixed is not fetched";
        reader.bad(ca.at, "`ca` vouches for where keys are fetched", help);
        return;
    }
    if settings.private_network && !fetches {
        let help = "remove `private_network`";
        reader.bad(reader.at, "no keys are fetched for this issuer", help);
    }
    if let Some(longest) = reader.duration("keys_max_age", KEYS_MAX_AGE) {
        if !fetches {
            let help = "remove `keys_max_age`";
            reader.bad(longest.at, "no keys are fetched for this issuer", help);
        }
        settings.keys_max_age = longest.value;
    }
    settings.ca = ca.and_then(|ca| decoder.certificates(ca));
}

const PIN_KEPT: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(400 * 24 * 3600);

/// `pin`, `instance`, `pin_kept`: whether a pod or a job is held to the first key that it signs with.
pub(in crate::config) fn pin(reader: &Reader<'_>, settings: &mut IssuerSettings) {
    let wanted = reader.boolean("pin");
    let instance = reader.text("instance");
    let kept = reader.duration("pin_kept", PIN_KEPT);
    let known = settings.pin.take();
    if wanted == Some(false) {
        return;
    }
    let claim = instance.map(|claim| claim.value);
    let claim = claim.or_else(|| known.as_ref().map(|pin| pin.claim.clone()));
    let Some(claim) = claim.filter(|claim| !claim.is_empty()) else {
        if wanted.is_some() || kept.is_some() {
            let message = "nothing says which instance of a workload a token is of";
            let help = "add `instance = \"CLAIM\"`: what one pod or job has and no other ever will";
            reader.bad(reader.at, message, help);
        }
        return;
    };
    let usual = known.map_or(*PIN_KEPT.start() * 24, |pin| pin.kept);
    let kept = kept.map_or(usual, |kept| kept.value);
    if settings.people || !settings.sts.is_empty() {
        let help = "remove `pin`, `instance` and `pin_kept`";
        reader.bad(
            reader.at,
            "keys are pinned to workloads by their tokens",
            help,
        );
        return;
    }
    settings.pin = Some(PinSettings { claim, kept });
}

/// `{ url = "https://kubernetes.default.svc", ca = "...", token = "file:..." }`.
pub(in crate::config) fn token_review(
    decoder: &Decoder<'_>,
    reader: &Reader<'_>,
    preset: &Preset,
) -> Option<ReviewSettings> {
    let table = reader.table("token_review")?;
    if preset.name != "kubernetes" {
        let message = "`token_review` is a question to a Kubernetes API server";
        let help = "add `preset = \"kubernetes\"`, or remove it";
        reader.bad(table.at, message, help);
    }
    let url = table.required_text("url", "\"https://kubernetes.default.svc\"");
    let url = url.and_then(|url| decoder.url(url));
    let ca = table.text("ca");
    let ca = ca.filter(|ca| decoder.may_read(Path::new(&ca.value), ca.at));
    let ca = ca.map(|path| decoder.path(&path.value));
    let token = table.required_text(
        "token",
        "\"file:/var/run/secrets/kubernetes.io/serviceaccount/token\"",
    );
    let token = token.and_then(|token| decoder.reference(token));
    table.finish();
    let reference = token?.value;
    Some(ReviewSettings {
        url: url?.value,
        ca,
        token: Renewed::new(move || {
            secret_reference(&reference).map_err(|error| error.to_string())
        }),
    })
}

/// `["https://sts.eu-west-1.amazonaws.com"]`.
pub(in crate::config) fn endpoints(
    decoder: &Decoder<'_>,
    reader: &Reader<'_>,
    preset: &Preset,
) -> Option<Vec<String>> {
    let node = reader.node("endpoints")?;
    let at = node.at;
    let listed = reader.texts("endpoints")?;
    if !preset.asks_sts() {
        let message = "`endpoints` are those of AWS STS";
        reader.bad(at, message, "add `preset = \"aws_sts\"`, or remove them");
        return None;
    }
    if matches!(&node.raw, Raw::List(nodes) if nodes.is_empty()) {
        let help = "write `[\"https://sts.eu-west-1.amazonaws.com\"]`";
        reader.bad(at, "`endpoints` is empty", help);
        return None;
    }
    let urls = listed
        .into_iter()
        .filter_map(|url| endpoint(decoder, decoder.url(url)?));
    Some(urls.collect())
}

/// An origin and nothing else: what is asked there is the broker's own question.
fn endpoint(decoder: &Decoder<'_>, url: At<String>) -> Option<String> {
    if Url::parse(&url.value).is_ok_and(|parsed| parsed.path() == "/") {
        return Some(url.value);
    }
    let message = format!("`{}` has a path", url.value);
    let help = "write the host alone: `https://sts.eu-west-1.amazonaws.com`";
    decoder.desk.report(url.at, Code::BadValue, message, help);
    None
}
