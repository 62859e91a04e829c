//! A real moto server as a child process: STS and IAM as they behave, on loopback.
//!
//! With `enforce`, moto checks signatures, keys, session tokens, the role's policies and its trust
//! policy. It never looks at a session policy, at a session's expiry or into a web identity token,
//! and AssumeRoleWithWebIdentity only works without `enforce`.
//!
//! Not on this machine: tests that need it say so and pass, unless `DAYFLY_TEST_REQUIRE` names it.

use ring::digest::{SHA256, digest};
use ring::hmac;
use std::error::Error;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::format_description;

pub type Failure = Box<dyn Error + Send + Sync>;

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "123456789012";
/// Moto lets this many requests through before it enforces: exactly those of `set_up`.
const SET_UP_REQUESTS: &str = "5";

/// A running moto with one user, who may do nothing but assume one role, which may do nothing but
/// list buckets.
#[derive(Debug)]
pub struct Moto {
    pub url: String,
    pub role_arn: String,
    /// The user's.
    pub access_key_id: String,
    pub secret_access_key: String,
    child: Child,
    http: reqwest::Client,
}

/// AWS credentials, as whoever was given them uses them.
#[derive(Debug, Clone, Default)]
pub struct AwsKeys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl Moto {
    /// `None`: moto is not installed here, and nothing says it must be.
    pub async fn start(enforce: bool) -> Option<Self> {
        let required = std::env::var_os("DAYFLY_TEST_REQUIRE")
            .is_some_and(|list| list.to_string_lossy().contains("moto"));
        let mut failure: Failure = "moto_server was not tried".into();
        // The port is free when it is chosen; another process may take it before moto does.
        for _ in 0..3 {
            match Self::try_start(enforce).await {
                Ok(moto) => return Some(moto),
                Err(error) => failure = error,
            }
        }
        assert!(!required, "moto is required and does not start: {failure}");
        let _ = writeln!(std::io::stderr(), "skipped: moto does not start: {failure}");
        None
    }

    async fn try_start(enforce: bool) -> Result<Self, Failure> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let count = if enforce { SET_UP_REQUESTS } else { "inf" };
        let mut child = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", count)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let ready = ready(&mut child, port).await;
        let mut moto = Self {
            url: format!("http://127.0.0.1:{port}"),
            role_arn: format!("arn:aws:iam::{ACCOUNT}:role/ci/dayfly-deploy"),
            access_key_id: String::new(),
            secret_access_key: String::new(),
            child,
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(20))
                .build()?,
        };
        ready?;
        moto.set_up().await?;
        Ok(moto)
    }

    async fn set_up(&mut self) -> Result<(), Failure> {
        let user_policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"],"Resource":"*"}]}"#;
        let role_policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:ListAllMyBuckets","Resource":"*"}]}"#;
        let trust = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{ACCOUNT}:user/dayfly"}},"Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"]}}]}}"#
        );
        self.iam(&[("Action", "CreateUser"), ("UserName", "dayfly")])
            .await?;
        self.iam(&[
            ("Action", "PutUserPolicy"),
            ("UserName", "dayfly"),
            ("PolicyName", "assume"),
            ("PolicyDocument", user_policy),
        ])
        .await?;
        self.iam(&[
            ("Action", "CreateRole"),
            ("RoleName", "dayfly-deploy"),
            ("Path", "/ci/"),
            ("AssumeRolePolicyDocument", &trust),
        ])
        .await?;
        self.iam(&[
            ("Action", "PutRolePolicy"),
            ("RoleName", "dayfly-deploy"),
            ("PolicyName", "list"),
            ("PolicyDocument", role_policy),
        ])
        .await?;
        let key = self
            .iam(&[("Action", "CreateAccessKey"), ("UserName", "dayfly")])
            .await?;
        self.access_key_id = element(&key, "AccessKeyId")?;
        self.secret_access_key = element(&key, "SecretAccessKey")?;
        Ok(())
    }

    /// Unsigned, but for the service's name: only good before moto enforces.
    async fn iam(&self, form: &[(&str, &str)]) -> Result<String, Failure> {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=setup/20260101/{REGION}/iam/aws4_request, SignedHeaders=host, Signature=0"
        );
        let answer = self
            .http
            .post(&self.url)
            .header("authorization", scope)
            .form(form)
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        if status.is_success() {
            Ok(text)
        } else {
            Err(format!("{status}: {text}").into())
        }
    }

    /// The key of the user who may assume the role.
    pub fn keys(&self) -> AwsKeys {
        AwsKeys {
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            session_token: None,
        }
    }

    /// A request with these credentials, signed as AWS wants it (Signature Version 4): a `POST` of
    /// the form, or a `GET` where there is none. Answers the status and the body.
    pub async fn call(
        &self,
        keys: &AwsKeys,
        service: &str,
        form: &str,
        now: OffsetDateTime,
    ) -> Result<(u16, String), Failure> {
        let method = if form.is_empty() { "GET" } else { "POST" };
        let headers = self.signed(keys, service, form, &[], now);
        let mut request = self.http.request(method.parse()?, &self.url);
        for (name, value) in headers.into_iter().filter(|(name, _)| name != "host") {
            request = request.header(name, value);
        }
        if !form.is_empty() {
            request = request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form.to_owned());
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The headers of such a request, `authorization` among them, `more` of them signed with it.
    pub fn signed(
        &self,
        keys: &AwsKeys,
        service: &str,
        form: &str,
        more: &[(&'static str, &str)],
        now: OffsetDateTime,
    ) -> Vec<(String, String)> {
        let stamp = now
            .format(format_description!(
                "[year][month][day]T[hour][minute][second]Z"
            ))
            .unwrap();
        let day: String = stamp.chars().take(8).collect();
        let method = if form.is_empty() { "GET" } else { "POST" };
        let payload = hex(digest(&SHA256, form.as_bytes()).as_ref());
        let mut headers = vec![
            ("host", self.url.replace("http://", "")),
            ("x-amz-content-sha256", payload.clone()),
            ("x-amz-date", stamp.clone()),
        ];
        if let Some(token) = &keys.session_token {
            headers.push(("x-amz-security-token", token.clone()));
        }
        headers.extend(
            more.iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        headers.sort();
        let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let canonical = format!("{method}\n/\n\n{lines}\n{names}\n{payload}");
        let scope = format!("{day}/{REGION}/{service}/aws4_request");
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
            hex(digest(&SHA256, canonical.as_bytes()).as_ref())
        );
        let mut key = format!("AWS4{}", keys.secret_access_key).into_bytes();
        for part in scope.split('/').chain([to_sign.as_str()]) {
            let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            key = hmac::sign(&hmac_key, part.as_bytes()).as_ref().to_vec();
        }
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            keys.access_key_id,
            hex(&key)
        );
        headers.push(("authorization", authorization));
        headers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ready(child: &mut Child, port: u16) -> Result<(), Failure> {
    for _ in 0..600 {
        if let Some(status) = child.try_wait()? {
            return Err(format!("moto_server ended with {status}").into());
        }
        if tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = child.kill();
    Err("moto_server does not listen after 30 s".into())
}

/// The text of the first element of this name.
pub fn element(xml: &str, name: &str) -> Result<String, Failure> {
    let (_, rest) = xml
        .split_once(&format!("<{name}>"))
        .ok_or_else(|| format!("no {name} in {xml}"))?;
    let (text, _) = rest
        .split_once("</")
        .ok_or_else(|| format!("no end of {name}"))?;
    Ok(text.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
