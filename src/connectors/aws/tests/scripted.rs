//! An STS that says what it is told to, on loopback, and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The fields of one request, decoded.
type Fields = Vec<(String, String)>;

#[derive(Debug, Clone)]
pub(super) enum Script {
    Session {
        role: &'static str,
        account: &'static str,
        session: Option<&'static str>,
        expires: Option<OffsetDateTime>,
        without: Option<&'static str>,
    },
    Body(u16, String),
    HangUp,
    Silence,
}

impl Script {
    /// What STS answers when all is well.
    pub fn good() -> Self {
        Self::Session {
            role: "dayfly-deploy",
            account: "123456789012",
            session: None,
            expires: None,
            without: None,
        }
    }

    pub fn body(status: u16, text: &str) -> Self {
        Self::Body(status, text.to_owned())
    }

    pub fn error(status: u16, code: &str) -> Self {
        Self::Body(
            status,
            format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
                 <Type>Sender</Type><Code>{code}</Code><Message>as told</Message></Error>\
                 <RequestId>1</RequestId></ErrorResponse>"
            ),
        )
    }

    pub fn hang_up() -> Self {
        Self::HangUp
    }

    pub fn silence() -> Self {
        Self::Silence
    }

    pub fn without(mut self, name: &'static str) -> Self {
        if let Self::Session { without, .. } = &mut self {
            *without = Some(name);
        }
        self
    }

    pub fn role(mut self, name: &'static str) -> Self {
        if let Self::Session { role, .. } = &mut self {
            *role = name;
        }
        self
    }

    pub fn account(mut self, number: &'static str) -> Self {
        if let Self::Session { account, .. } = &mut self {
            *account = number;
        }
        self
    }

    pub fn session(mut self, name: &'static str) -> Self {
        if let Self::Session { session, .. } = &mut self {
            *session = Some(name);
        }
        self
    }

    pub fn expires(mut self, at: OffsetDateTime) -> Self {
        if let Self::Session { expires, .. } = &mut self {
            *expires = Some(at);
        }
        self
    }

    fn answer(&self, asked: &Fields, now: OffsetDateTime) -> Option<(u16, String)> {
        match self {
            Self::Body(status, text) => Some((*status, text.clone())),
            Self::HangUp | Self::Silence => None,
            Self::Session {
                role,
                account,
                session,
                expires,
                without,
            } => {
                let field = |name: &str| {
                    asked
                        .iter()
                        .find(|(key, _)| key == name)
                        .map_or("", |(_, value)| value)
                };
                let seconds: u64 = field("DurationSeconds").parse().unwrap();
                let ends = expires.unwrap_or(now + Duration::from_secs(seconds));
                let ends = ends
                    .replace_nanosecond(0)
                    .unwrap()
                    .format(&Rfc3339)
                    .unwrap();
                let session = session.unwrap_or(field("RoleSessionName"));
                let action = field("Action");
                let element = |name: &str, inner: String| {
                    if *without == Some(name) {
                        String::new()
                    } else {
                        format!("<{name}>{inner}</{name}>")
                    }
                };
                let credentials = [
                    element("AccessKeyId", "ASIAEXAMPLE".to_owned()),
                    element("SecretAccessKey", "a/secret+key".to_owned()),
                    element("SessionToken", "a//session+token==".to_owned()),
                    element("Expiration", ends),
                ];
                let arn = format!("arn:aws:sts::{account}:assumed-role/{role}/{session}");
                let user = format!("<Arn>{arn}</Arn><AssumedRoleId>AROA:{session}</AssumedRoleId>");
                let text = format!(
                    "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                     <{action}Result>{}{}</{action}Result></{action}Response>",
                    element("AssumedRoleUser", user),
                    element("Credentials", credentials.concat()),
                );
                Some((200, text))
            }
        }
    }
}

pub(super) struct Sts {
    pub url: String,
    requests: Arc<Mutex<Vec<Fields>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Sts {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(connection, script.clone(), seen.clone()));
            }
        });
        Self {
            url,
            requests,
            task,
        }
    }

    pub fn requests(&self) -> Vec<Fields> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Sts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut connection: TcpStream, script: Script, seen: Arc<Mutex<Vec<Fields>>>) {
    use crate::clock::Clock;
    let body = read_body(&mut connection).await;
    let fields: Fields = url::form_urlencoded::parse(&body).into_owned().collect();
    seen.lock().unwrap().push(fields.clone());
    let now = crate::clock::SystemClock::new().now();
    match script.answer(&fields, now) {
        Some((status, text)) => {
            let head = format!(
                "HTTP/1.1 {status} As Told\r\ncontent-type: text/xml\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n",
                text.len()
            );
            connection.write_all(head.as_bytes()).await.unwrap();
            connection.write_all(text.as_bytes()).await.unwrap();
        }
        None if matches!(script, Script::Silence) => {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        None => {}
    }
}

async fn read_body(connection: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |value| value.trim().parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return bytes[end + 4..].to_vec();
            }
        }
        let read = connection.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the request ended early");
        bytes.extend_from_slice(&buffer[..read]);
    }
}
