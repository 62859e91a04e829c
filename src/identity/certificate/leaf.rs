//! What one certificate says of itself: its names and what its key is for.

use super::{CertificateFault, sha256_text};
use std::net::IpAddr;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::identity) struct Leaf {
    /// RFC 4514, the last name first. `None` where a part of it is no text.
    pub(in crate::identity) subject: Option<String>,
    pub(in crate::identity) names: Vec<Name>,
    pub(in crate::identity) is_authority: bool,
    pub(in crate::identity) key_usage: Option<KeyUsage>,
    pub(in crate::identity) not_before: OffsetDateTime,
    pub(in crate::identity) not_after: OffsetDateTime,
    /// SHA-256 of the public key (SubjectPublicKeyInfo), base64url.
    pub(in crate::identity) key_sha256: String,
}

/// A subject alternative name of a kind that we compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::identity) enum Name {
    Dns(String),
    Uri(String),
    Email(String),
    Ip(IpAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::identity) struct KeyUsage {
    pub(in crate::identity) digital_signature: bool,
    pub(in crate::identity) cert_sign: bool,
    pub(in crate::identity) crl_sign: bool,
}

impl Leaf {
    pub(in crate::identity) fn parse(der: &[u8]) -> Result<Self, CertificateFault> {
        let malformed = CertificateFault::Malformed;
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| malformed)?;
        if !rest.is_empty() {
            return Err(malformed);
        }
        // Each of these fails where an extension stands twice or does not parse.
        let basic = certificate.basic_constraints().map_err(|_| malformed)?;
        let usage = certificate.key_usage().map_err(|_| malformed)?;
        let names = certificate.subject_alternative_name();
        let names = match names.map_err(|_| malformed)? {
            Some(names) => names
                .value
                .general_names
                .iter()
                .filter_map(|name| read(name).transpose())
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let at = |time: i64| OffsetDateTime::from_unix_timestamp(time).map_err(|_| malformed);
        let validity = certificate.validity();
        Ok(Self {
            subject: rfc4514(certificate.subject()),
            names,
            is_authority: basic.is_some_and(|basic| basic.value.ca),
            key_usage: usage.map(|usage| KeyUsage {
                digital_signature: usage.value.digital_signature(),
                cert_sign: usage.value.key_cert_sign(),
                crl_sign: usage.value.crl_sign(),
            }),
            not_before: at(validity.not_before.timestamp())?,
            not_after: at(validity.not_after.timestamp())?,
            key_sha256: sha256_text(certificate.public_key().raw),
        })
    }

    pub(in crate::identity) fn holds_at(&self, now: OffsetDateTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    pub(in crate::identity) fn uris(&self) -> Vec<&str> {
        self.names
            .iter()
            .filter_map(|name| match name {
                Name::Uri(uri) => Some(uri.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Names of hosts compare without case.
    pub(in crate::identity) fn has(&self, wanted: &Name) -> bool {
        self.names.iter().any(|name| match (name, wanted) {
            (Name::Dns(name), Name::Dns(wanted)) => name.eq_ignore_ascii_case(wanted),
            (name, wanted) => name == wanted,
        })
    }
}

/// `Ok(None)` for kinds that nobody compares; a broken name spoils the certificate.
fn read(name: &GeneralName<'_>) -> Result<Option<Name>, CertificateFault> {
    Ok(Some(match name {
        GeneralName::DNSName(name) => Name::Dns((*name).to_owned()),
        GeneralName::URI(uri) => Name::Uri((*uri).to_owned()),
        GeneralName::RFC822Name(address) => Name::Email((*address).to_owned()),
        GeneralName::IPAddress(bytes) => Name::Ip(
            match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).map(IpAddr::from),
                _ => <[u8; 16]>::try_from(*bytes).map(IpAddr::from),
            }
            .map_err(|_| CertificateFault::Malformed)?,
        ),
        GeneralName::Invalid(..) => return Err(CertificateFault::Malformed),
        _ => return Ok(None),
    }))
}

/// Attribute types with a name of their own in RFC 4514 section 3.
const SHORT: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// RFC 4514 section 2: the last relative name first, values escaped.
fn rfc4514(name: &X509Name<'_>) -> Option<String> {
    let mut relative = Vec::new();
    for rdn in name.iter() {
        let mut parts = Vec::new();
        for attribute in rdn.iter() {
            let oid = attribute.attr_type().to_id_string();
            let short = SHORT.iter().find(|(known, _)| *known == oid);
            let kind = short.map_or(oid.as_str(), |(_, short)| short);
            parts.push(format!("{kind}={}", escaped(attribute.as_str().ok()?)?));
        }
        relative.push(parts.join("+"));
    }
    relative.reverse();
    Some(relative.join(","))
}

/// `None` where control characters would make two names look alike.
fn escaped(value: &str) -> Option<String> {
    if value.chars().any(char::is_control) {
        return None;
    }
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::new();
    for (place, c) in value.chars().enumerate() {
        let special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (c == '#' && place == 0)
            || (c == ' ' && (place == 0 || place == last));
        if special {
            text.push('\\');
        }
        text.push(c);
    }
    Some(text)
}
