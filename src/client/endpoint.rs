//! A platform's token from an address: GitHub's token endpoint, a metadata server, whatever answers
//! a `GET` from inside the job or the machine.

use super::{ClientError, is_loopback};
use crate::secret::Secret;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::Value;

/// Stands in the address for the audience that is asked for.
pub const AUDIENCE: &str = "{audience}";
/// Longer than any workload token seen.
const MAX_ANSWER: usize = 64 * 1024;

/// Where a token is asked for, and what the asking takes.
#[derive(Debug)]
pub struct Endpoint {
    url: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// RFC 6901, into the answer; absent: the answer is the token.
    pointer: Option<String>,
    /// What may be wrong where it refuses.
    hint: &'static str,
}

impl Endpoint {
    /// `url` may hold [`AUDIENCE`]; where it does, the token is bound to this process's key.
    pub fn new(
        url: String,
        headers: &[(String, Secret<String>)],
        pointer: Option<String>,
    ) -> Result<Self, ClientError> {
        let filled = url.replace(AUDIENCE, "x");
        let parsed = url::Url::parse(&filled).ok();
        let fits = parsed.is_some_and(|url| {
            let host = url.host_str().unwrap_or_default();
            url.scheme() == "https"
                || (url.scheme() == "http" && (is_loopback(host) || is_link_local(host)))
        });
        if !fits {
            return Err(ClientError::Local(
                "the identity URL must be https, or http to an address of this machine or its \
                 link (127.0.0.1, 169.254.169.254)"
                    .to_owned(),
            ));
        }
        if pointer
            .as_ref()
            .is_some_and(|pointer| !pointer.starts_with('/'))
        {
            return Err(ClientError::Local(
                "the pointer into the answer begins with `/`, as in `/value` (RFC 6901)".to_owned(),
            ));
        }
        let headers = headers
            .iter()
            .map(|(name, value)| header(name, value))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            url,
            headers,
            pointer,
            hint: "",
        })
    }

    /// `ACTIONS_ID_TOKEN_REQUEST_URL` and `ACTIONS_ID_TOKEN_REQUEST_TOKEN`, as GitHub sets them.
    pub fn github(url: &str, bearer: &Secret<String>) -> Result<Self, ClientError> {
        let separator = if url.contains('?') { '&' } else { '?' };
        let bearer = Secret::new(format!("Bearer {}", bearer.expose()));
        let headers = [("authorization".to_owned(), bearer)];
        let url = format!("{url}{separator}audience={AUDIENCE}");
        let mut endpoint = Self::new(url, &headers, Some("/value".to_owned()))?;
        endpoint.hint = ": does the job have `permissions: id-token: write`?";
        Ok(endpoint)
    }

    /// Asks once. The address may hold what must not be told, so no error repeats it.
    pub async fn token(
        &self,
        http: &reqwest::Client,
        audience: &str,
    ) -> Result<Secret<String>, ClientError> {
        let problem = |cause: String| {
            let hint = self.hint;
            ClientError::Local(format!("the platform gave no token ({cause}){hint}"))
        };
        let encoded: String = url::form_urlencoded::byte_serialize(audience.as_bytes()).collect();
        let mut request = http.get(self.url.replace(AUDIENCE, &encoded));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = request
            .send()
            .await
            .map_err(|error| problem(error.without_url().to_string()))?;
        // A redirect is not followed: a header that goes elsewhere is a leaked one.
        if !response.status().is_success() {
            return Err(problem(format!("status {}", response.status().as_u16())));
        }
        let body = bounded(response).await.map_err(&problem)?;
        let text = match &self.pointer {
            None => body,
            Some(pointer) => {
                let answer: Value = serde_json::from_str(body.expose())
                    .map_err(|_| problem("its answer is not JSON".to_owned()))?;
                match answer.pointer(pointer) {
                    Some(Value::String(token)) => Secret::new(token.clone()),
                    _ => return Err(problem(format!("no text at `{pointer}` of its answer"))),
                }
            }
        };
        let token = text.expose().trim();
        if token.is_empty() || token.chars().any(char::is_whitespace) {
            return Err(problem("its answer is not a token".to_owned()));
        }
        Ok(Secret::new(token.to_owned()))
    }
}

fn header(name: &str, value: &Secret<String>) -> Result<(HeaderName, HeaderValue), ClientError> {
    let wrong = || ClientError::Local(format!("`{name}` is no header, or its value fits none"));
    let mut fitting = HeaderValue::from_str(value.expose()).map_err(|_| wrong())?;
    // `Debug` of a request shows no such value.
    fitting.set_sensitive(true);
    Ok((name.parse().map_err(|_| wrong())?, fitting))
}

/// Metadata servers: nobody outside of the machine's own link answers there.
fn is_link_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(std::net::IpAddr::V4(address)) => address.is_link_local(),
        Ok(std::net::IpAddr::V6(address)) => {
            address.is_unicast_link_local() || bare == "fd00:ec2::254"
        }
        Err(_) => false,
    }
}

async fn bounded(mut response: reqwest::Response) -> Result<Secret<String>, String> {
    let mut bytes = Vec::new();
    let broken = |error: reqwest::Error| error.without_url().to_string();
    while let Some(part) = response.chunk().await.map_err(broken)? {
        if bytes.len() + part.len() > MAX_ANSWER {
            return Err("its answer is longer than 64 KiB".to_owned());
        }
        bytes.extend_from_slice(&part);
    }
    String::from_utf8(bytes)
        .map(Secret::new)
        .map_err(|_| "its answer is not text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_nobody_listens_in_on_is_asked() {
        let made = |url: &str| Endpoint::new(url.to_owned(), &[], None).is_ok();
        for good in [
            "https://ci.example/token?aud={audience}",
            "http://127.0.0.1:1/{audience}",
            "http://[::1]/",
            "http://169.254.169.254/computeMetadata/v1/identity?audience={audience}",
            "http://[fd00:ec2::254]/",
        ] {
            assert!(made(good), "{good}");
        }
        for bad in [
            "http://ci.example/token",
            "http://10.0.0.1/",
            "http://169.254.169.254.evil.example/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "token",
        ] {
            assert!(!made(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_no_header_or_no_pointer_is_said_without_its_value() {
        let url = || "https://ci.example".to_owned();
        let secret = || Secret::new("line\nbreak-s3cret".to_owned());
        let error = Endpoint::new(url(), &[("x-token".to_owned(), secret())], None).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        let plain = Secret::new("ok".to_owned());
        assert!(Endpoint::new(url(), &[("no header".to_owned(), plain.clone())], None).is_err());
        assert!(Endpoint::new(url(), &[], Some("value".to_owned())).is_err());
        let made = Endpoint::new(
            url(),
            &[("x-token".to_owned(), plain)],
            Some("/a/b".to_owned()),
        );
        assert!(!format!("{:?}", made.unwrap()).contains("ok\""));
    }
}
