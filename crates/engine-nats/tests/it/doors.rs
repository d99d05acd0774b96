//! Who is let in, and who is told why not.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, Engine, EngineError, TopicSpec};
use anabranch_engine_nats::{NatsEngine, NatsSettings};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair as CertKey};

use crate::nats::{free_ports, fresh, server_binary};

/// Whoever is not let in is told by then.
const SOON: Duration = Duration::from_secs(5);

/// A server with a configuration of its own.
struct Door {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Door {
    /// None without `ANABRANCH_NATS`.
    async fn open(config: impl FnOnce(&Path) -> String) -> Option<Self> {
        let binary = server_binary()?;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nats.conf");
        let store = dir.path().join("store");
        std::fs::write(&path, format!("jetstream {{ store_dir: {store:?} }}\n{}", config(dir.path())))
            .unwrap();
        let port = free_ports();
        let child = Command::new(binary)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-c"])
            .arg(path)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let door = Self { child, port, dir };
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(door)
    }

    fn secret(&self, text: &str) -> String {
        let path = self.dir.path().join(format!("secret-{}", fresh("s")));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    async fn try_open(&self, url: &str) -> Result<NatsEngine, EngineError> {
        let began = Instant::now();
        let settings = NatsSettings::from_url(&url.replace("PORT", &self.port.to_string())).unwrap();
        let opened = NatsEngine::open(settings, &[]).await;
        assert!(began.elapsed() < SOON, "{url}: {:?}", began.elapsed());
        opened
    }

    /// Opens it, and appends.
    async fn passes(&self, url: &str) {
        let engine = self.try_open(url).await.unwrap();
        let topic = fresh("t");
        engine.ensure_topic(&TopicSpec::new(&topic, 1)).await.unwrap();
        let at = TopicPartition::new(topic, 0);
        engine.append(&at, Record::new("k", "v").into(), AppendOptions::default()).await.unwrap();
        engine.close().await;
    }

    async fn is_refused(&self, url: &str) {
        match self.try_open(url).await {
            Err(EngineError::Unauthorised { reason, .. }) => assert!(!reason.contains("wrong"), "{reason}"),
            other => panic!("{url}: {other:?}"),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn users_have_passwords_or_nkeys() {
    let (known, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let config = |_: &Path| {
        let nkey = known.public_key();
        format!(
            "accounts {{ A {{ jetstream: enabled, users: [{{ user: me, password: right }}, {{ nkey: {nkey} }}] }} }}"
        )
    };
    let Some(door) = Door::open(config).await else { return };
    door.passes(&format!("nats://me@127.0.0.1:PORT?password_file={}", door.secret("right\n"))).await;
    door.is_refused(&format!("nats://me@127.0.0.1:PORT?password_file={}", door.secret("wrong"))).await;
    door.is_refused("nats://127.0.0.1:PORT").await;
    for (pair, is_known) in [(&known, true), (&stranger, false)] {
        let url = format!("nats://127.0.0.1:PORT?nkey_file={}", door.secret(&pair.seed().unwrap()));
        if is_known { door.passes(&url).await } else { door.is_refused(&url).await }
    }
}

#[tokio::test]
async fn whoever_has_the_token_may_come_in() {
    let Some(door) = Door::open(|_| "authorization { token: right }".to_owned()).await else { return };
    door.passes(&format!("nats://127.0.0.1:PORT?token_file={}", door.secret("right"))).await;
    door.is_refused(&format!("nats://127.0.0.1:PORT?token_file={}", door.secret("wrong"))).await;
}

#[tokio::test]
async fn a_server_shows_a_certificate_and_may_ask_for_one() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = CertKey::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let sign = |name: &str| {
        let key = CertKey::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let config = |dir: &Path| {
        for (name, (certificate, key)) in [("server", sign("127.0.0.1")), ("client", sign("client"))] {
            std::fs::write(dir.join(format!("{name}.pem")), certificate).unwrap();
            std::fs::write(dir.join(format!("{name}.key")), key).unwrap();
        }
        std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
        let path = |name: &str| dir.join(name);
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
            path("server.pem"),
            path("server.key"),
            path("ca.pem")
        )
    };
    let Some(door) = Door::open(config).await else { return };
    let path = |name: &str| door.dir.path().join(name).display().to_string();
    let identity = format!("cert_file={}&key_file={}", path("client.pem"), path("client.key"));
    door.passes(&format!("tls://127.0.0.1:PORT?ca_file={}&{identity}", path("ca.pem"))).await;
    for url in [
        // Nobody vouches for the server.
        format!("tls://127.0.0.1:PORT?{identity}"),
        // It wants to know who we are.
        format!("tls://127.0.0.1:PORT?ca_file={}", path("ca.pem")),
    ] {
        let error = door.try_open(&url).await.unwrap_err();
        println!("{url}: {error}");
        assert!(matches!(error, EngineError::Unauthorised { .. }), "{url}: {error}");
    }
}
