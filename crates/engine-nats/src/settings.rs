//! Where NATS is, who we are there, and what is asked of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an engine is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsSettings {
    /// `host:port`, or `host` for port 4222; one is enough to find the others.
    pub servers: Vec<String>,
    /// Who we are.
    pub auth: NatsAuth,
    /// How the connection is kept private.
    pub tls: NatsTls,
    /// On how many servers each partition is stored: 1, 3 or 5. Topics that exist keep what they have.
    pub replicas: usize,
    /// Whether the operator says that the servers sync before they answer (`sync_interval: always`): NATS does not tell.
    pub synced: bool,
    /// How long an append is tried again. Less than half of the time that NATS remembers ids for, which is 2 minutes.
    pub delivery_timeout: Duration,
    /// How long to wait for one answer.
    pub request_timeout: Duration,
    /// How long a member of a group may be silent before the others take its partitions.
    pub session_timeout: Duration,
}

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NatsAuth {
    /// Nobody in particular.
    #[default]
    None,
    /// A user with a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// Whoever knows this.
    Token(Secret),
    /// Whoever has the seed of this nkey.
    Nkey(Secret),
    /// What stands in a `.creds` file: a JWT and the seed of its nkey.
    Credentials(Secret),
}

/// How the connection is kept private. Without certificates of its own it trusts those of the system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NatsTls {
    /// Refuse a server without TLS.
    pub required: bool,
    /// Certificates to trust beside, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, and its key, in PEM.
    pub identity_files: Option<(PathBuf, PathBuf)>,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The settings cannot be used as they stand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The URL says something else than where NATS is.
    #[error("{what}: expected nats://HOST:PORT,HOST:PORT?NAME=VALUE&NAME=VALUE, or tls:// for TLS")]
    Url {
        /// What is wrong with it.
        what: String,
    },
    /// A setting has no such value.
    #[error("{name}: {what}")]
    Value {
        /// Which setting.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file that a setting names cannot be read.
    #[error("{name}: cannot read {}", path.display())]
    File {
        /// Which setting.
        name: String,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What goes before the names of the environment's variables.
const ENVIRONMENT: &str = "ANABRANCH_NATS_";

impl NatsSettings {
    /// One copy, no credentials.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            auth: NatsAuth::None,
            tls: NatsTls::default(),
            replicas: 1,
            synced: false,
            delivery_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(5),
            session_timeout: Duration::from_secs(10),
        }
    }

    /// Reads a URL such as `nats://orders@a:4222,b:4222?replicas=3&password_file=/run/secrets/nats`. Its parameters are
    /// `replicas`, `synced`, `delivery_timeout_ms`, `request_timeout_ms`, `session_timeout_ms`, `password_file`,
    /// `token_file`, `nkey_file`, `creds_file`, `ca_file`, `cert_file` and `key_file`. Where it names none of these,
    /// `ANABRANCH_NATS_PASSWORD`, `_TOKEN` and `_NKEY` of the environment are taken. A URL holds no secrets: it is printed
    /// and logged.
    ///
    /// # Errors
    /// It cannot be read, or a file that it names cannot.
    pub fn from_url(url: &str) -> Result<Self, SettingsError> {
        Self::read(url, &|name| std::env::var(format!("{ENVIRONMENT}{name}")).ok())
    }

    fn read(url: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let wrong = |what: &str| SettingsError::Url { what: what.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let required = match scheme {
            "nats" => false,
            "tls" => true,
            _ => return Err(wrong("unknown scheme")),
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, place) = place.rsplit_once('@').unwrap_or(("", place));
        if user.contains(':') {
            return Err(wrong("a password in the URL, which is printed and logged: use password_file"));
        }
        let servers: Vec<_> = place.trim_end_matches('/').split(',').filter(|one| !one.is_empty()).collect();
        if servers.is_empty() {
            return Err(wrong("no server"));
        }
        let mut settings = Self::new(servers);
        settings.tls.required = required;
        let (mut password, mut cert_file, mut key_file) = (None, None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| wrong(&format!("a parameter without value: {pair}")))?;
            let value = unescaped(name, value)?;
            match name {
                "replicas" => settings.replicas = number(name, &value)?,
                "synced" => settings.synced = number::<u8>(name, &value)? != 0,
                "delivery_timeout_ms" => settings.delivery_timeout = millis(name, &value)?,
                "request_timeout_ms" => settings.request_timeout = millis(name, &value)?,
                "session_timeout_ms" => settings.session_timeout = millis(name, &value)?,
                "password_file" => password = Some(secret(name, &value)?),
                "token_file" => settings.auth = NatsAuth::Token(secret(name, &value)?),
                "nkey_file" => settings.auth = NatsAuth::Nkey(secret(name, &value)?),
                "creds_file" => settings.auth = NatsAuth::Credentials(secret(name, &value)?),
                "ca_file" => settings.tls.ca_file = Some(value.into()),
                "cert_file" => cert_file = Some(PathBuf::from(value)),
                "key_file" => key_file = Some(PathBuf::from(value)),
                _ => return Err(wrong(&format!("unknown parameter {name}"))),
            }
        }
        settings.tls.identity_files = match (cert_file, key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(value("cert_file", "it needs key_file, and the other way round")),
        };
        let from_environment = |name: &str| environment(name).map(Secret);
        if !user.is_empty() {
            let password = password.or_else(|| from_environment("PASSWORD"));
            let password = password.ok_or_else(|| value("password_file", "the user needs a password"))?;
            settings.auth = NatsAuth::Password { user: unescaped("user", user)?, password };
        } else if password.is_some() {
            return Err(value("password_file", "the URL names no user"));
        } else if settings.auth == NatsAuth::None {
            settings.auth = from_environment("TOKEN")
                .map(NatsAuth::Token)
                .or_else(|| from_environment("NKEY").map(NatsAuth::Nkey))
                .unwrap_or_default();
        }
        settings.check()?;
        Ok(settings)
    }

    /// Fails when a value is out of its range.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        if ![1, 3, 5].contains(&self.replicas) {
            return Err(value("replicas", "1, 3 or 5"));
        }
        if self.delivery_timeout * 2 > crate::topics::DUPLICATE_WINDOW {
            return Err(value("delivery_timeout_ms", "at most 60000: NATS forgets ids after two minutes"));
        }
        if self.session_timeout < Duration::from_secs(1) {
            return Err(value("session_timeout_ms", "at least 1000"));
        }
        Ok(())
    }
}

fn value(name: &str, what: &str) -> SettingsError {
    SettingsError::Value { name: name.to_owned(), what: what.to_owned() }
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, SettingsError> {
    text.parse().map_err(|_| value(name, &format!("not such a number: {text}")))
}

fn millis(name: &str, text: &str) -> Result<Duration, SettingsError> {
    number(name, text).map(Duration::from_millis)
}

/// What stands in a file, without the line's end.
fn secret(name: &str, path: &str) -> Result<Secret, SettingsError> {
    let read = std::fs::read_to_string(Path::new(path));
    let text =
        read.map_err(|source| SettingsError::File { name: name.to_owned(), path: path.into(), source })?;
    Ok(Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// `%41` is `A` (RFC 3986).
fn unescaped(name: &str, text: &str) -> Result<String, SettingsError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, digits.map(|digits| u8::from_str_radix(digits, 16))) {
            (b'%', Some(Ok(byte))) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'%', _) => return Err(value(name, "a % without two digits behind it")),
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| value(name, "not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<NatsSettings, SettingsError> {
        NatsSettings::read(url, &|_| None)
    }

    #[test]
    fn a_url_says_it_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass word");
        std::fs::write(&file, "hush\n").unwrap();
        let path = file.display().to_string().replace(' ', "%20");
        let url = format!("tls://me@a:1,b?replicas=3&synced=1&request_timeout_ms=2000&password_file={path}");
        let settings = read(&url).unwrap();
        assert_eq!(settings.servers, ["a:1", "b"]);
        assert_eq!((settings.replicas, settings.synced, settings.tls.required), (3, true, true));
        assert_eq!(settings.request_timeout, Duration::from_secs(2));
        let password = Secret("hush".into());
        assert_eq!(settings.auth, NatsAuth::Password { user: "me".into(), password });
        assert!(!format!("{settings:?}").contains("hush"));
    }

    #[test]
    fn the_environment_has_what_the_url_has_not() {
        let environment = |name: &str| (name != "NKEY").then(|| name.to_lowercase());
        let read = |url| NatsSettings::read(url, &environment).unwrap().auth;
        let password = Secret("password".into());
        assert_eq!(read("nats://me@a"), NatsAuth::Password { user: "me".into(), password });
        assert_eq!(read("nats://a/"), NatsAuth::Token(Secret("token".into())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("a:1", "no scheme"),
            ("kafka://a", "unknown scheme"),
            ("nats://?replicas=1", "no server"),
            ("nats://me:hush@a", "password in the URL"),
            ("nats://me@a", "needs a password"),
            ("nats://a?replicas=2", "1, 3 or 5"),
            ("nats://a?replicas=x", "not such a number"),
            ("nats://a?replicas", "without value"),
            ("nats://a?colour=red", "unknown parameter colour"),
            ("nats://a?ca_file=%zz", "two digits"),
            ("nats://a?cert_file=x", "needs key_file"),
            ("nats://a?token_file=/nowhere/at/all", "cannot read /nowhere/at/all"),
            ("nats://a?delivery_timeout_ms=90000", "at most 60000"),
            ("nats://a?session_timeout_ms=1", "at least 1000"),
        ];
        for (url, expect) in cases {
            let told = read(url).unwrap_err().to_string();
            assert!(told.contains(expect) && !told.contains("hush"), "{url}: {told}");
        }
    }
}
