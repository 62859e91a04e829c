//! Agents and resource servers that authenticate with a certificate: `certificate = { ... }`.

use super::decoder::Decoder;
use super::problem::Code;
use super::reader::Reader;
use super::source::{At, Place};
use crate::identity::{CertificateName, CertificateRule, ClientCertificate};

/// RFC 8705 section 2.1.2.
const NAMES: [&str; 5] = ["subject_dn", "san_dns", "san_uri", "san_ip", "san_email"];

/// `{ ca = "file:ca.pem", san_dns = "checkout.acme.example" }`, or
/// `{ self_signed = "file:checkout.pem" }`.
pub(in crate::config) fn rule(
    decoder: &Decoder<'_>,
    reader: Reader<'_>,
) -> Option<CertificateRule> {
    must_be_asked_for(decoder, reader.at);
    let ca = reader.text("ca");
    let own = reader.text("self_signed");
    let names: Vec<_> = NAMES
        .into_iter()
        .filter_map(|key| Some((key, reader.text(key)?)))
        .collect();
    let at = reader.at;
    let rule = match (ca, own) {
        (Some(ca), None) => issued(decoder, &reader, ca, names),
        (None, Some(file)) if names.is_empty() => registered(decoder, file),
        _ => {
            let message = format!("`{}` does not say which certificate", reader.name);
            let help = "write `{ ca = \"file:ca.pem\", san_dns = \"...\" }`, or \
                        `{ self_signed = \"file:agent.pem\" }`";
            decoder.desk.report(at, Code::BadValue, message, help);
            None
        }
    };
    reader.finish();
    rule
}

/// Or it could never be shown.
pub(in crate::config) fn must_be_asked_for(decoder: &Decoder<'_>, at: Place) {
    if !decoder.takes_certificates {
        let message = "the broker asks no client for a certificate";
        let help = "set `ask_client` in `tls` of `[broker]`, or `mtls`, or \
                    `client_cert_header` in `limits`";
        decoder.desk.report(at, Code::BadValue, message, help);
    }
}

fn issued(
    decoder: &Decoder<'_>,
    reader: &Reader<'_>,
    ca: At<String>,
    names: Vec<(&str, At<String>)>,
) -> Option<CertificateRule> {
    let ca_at = ca.at;
    let roots = decoder.certificate_list(ca)?;
    let [(kind, text)] = names.as_slice() else {
        // SECURITY: with none, whatever the CA issues is this agent.
        let help = format!("write exactly one of {}", NAMES.join(", "));
        reader.bad(reader.at, "a CA vouches for one name of the agent", &help);
        return None;
    };
    let value = text.value.clone();
    let name = match *kind {
        "subject_dn" => CertificateName::SubjectDn(value),
        "san_dns" => CertificateName::Dns(value),
        "san_uri" => CertificateName::Uri(value),
        "san_email" => CertificateName::Email(value),
        _ => match value.parse() {
            Ok(address) => CertificateName::Ip(address),
            Err(_) => {
                let message = format!("`{value}` is not an address");
                reader.bad(text.at, message, "write `san_ip = \"192.0.2.7\"`");
                return None;
            }
        },
    };
    let rule = CertificateRule::Issued { roots, name };
    if let Err(fault) = rule.check() {
        let message = format!("a certificate of this file vouches for nobody: {fault}");
        let help = "name the file of the CA that issues the agent's certificate";
        decoder.desk.report(ca_at, Code::BadKeys, message, help);
        return None;
    }
    Some(rule)
}

fn registered(decoder: &Decoder<'_>, file: At<String>) -> Option<CertificateRule> {
    let certificates = decoder.certificate_list(file)?;
    let thumbprint = |der| Some(ClientCertificate::new(vec![der])?.thumbprint());
    let thumbprints: Option<Vec<_>> = certificates.into_iter().map(thumbprint).collect();
    thumbprints.map(CertificateRule::Registered)
}
