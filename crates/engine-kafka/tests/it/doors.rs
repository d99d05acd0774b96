//! Who is let in, and who is told why not: on a Kafka of our own, with a listener for each way.
//!
//! With the cargo feature `tls` also by SCRAM and TLS, which the library is built without otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{AppendOptions, Engine, EngineError, TopicSpec};
use anabranch_engine_kafka::KafkaEngine;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::fresh;

/// Whoever is not let in is told by then.
const SOON: Duration = Duration::from_secs(15);

struct Doors {
    dir: tempfile::TempDir,
    port: u16,
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/kafka/kafka"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As Java's properties have it.
fn one_line(pem: &str) -> String {
    pem.trim_end().replace("\r\n", "\n").replace('\n', "\\n")
}

/// Five free ports in a row, of those that clients are given least.
fn free_ports() -> u16 {
    let start = 24_000 + u16::try_from(std::process::id() % 500).unwrap() * 12;
    let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    (start..).step_by(12).find(|&port| (port..port + 12).all(is_free)).unwrap()
}

impl Doors {
    /// Plain at the port, then by password, by TLS, and by both.
    fn open() -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_ports());
        // Names of their own: OpenSSL takes whoever is called as its issuer for self-signed.
        let named = |name: &str, mut params: CertificateParams| {
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut params = named("the authority of a test", CertificateParams::new(Vec::new()).unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let sign = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = named(name, CertificateParams::new(vec![name.to_owned()]).unwrap());
            let signed = params.signed_by(&key, &issuer).unwrap();
            (signed.pem(), key.serialize_pem())
        };
        let (certificate, key) = sign("127.0.0.1");
        let (client, client_key) = sign("client");
        for (name, text) in [("ca.pem", &ca.pem()), ("client.pem", &client), ("client.key", &client_key)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let doors = Self { dir, port };
        let listeners = ["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"];
        let listeners: Vec<_> =
            (port..).zip(listeners).map(|(port, name)| format!("{name}://127.0.0.1:{port}")).collect();
        let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required user_me=\"right\";";
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let mut options = vec![
            format!("listeners={},CONTROLLER://127.0.0.1:{}", listeners.join(","), port + 10),
            format!("advertised.listeners={}", listeners.join(",")),
            "inter.broker.listener.name=PLAINTEXT".to_owned(),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL".to_owned(),
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512".to_owned(),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.certificate.chain={}", one_line(&certificate)),
            format!("ssl.keystore.key={}", one_line(&key)),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.certificates={}", one_line(&ca.pem())),
            "listener.name.ssl.ssl.client.auth=required".to_owned(),
        ];
        for listener in ["sasl_plaintext", "sasl_ssl"] {
            options.push(format!("listener.name.{listener}.plain.sasl.jaas.config={plain}"));
            options.push(format!("listener.name.{listener}.scram-sha-512.sasl.jaas.config={scram}"));
        }
        run(script().arg("install"));
        let mut start = script();
        start.args(["start", "--port", &port.to_string(), "--dir"]).arg(doors.dir.path());
        for option in options {
            start.args(["-o", &option]);
        }
        run(&mut start);
        let plain = format!("127.0.0.1:{port}");
        run(script()
            .args(["run", "kafka-configs", "--bootstrap-server", &plain, "--alter", "--add-config"])
            .args(["SCRAM-SHA-512=[password=right]", "--entity-type", "users", "--entity-name", "me"]));
        doors
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn secret(&self, text: &str) -> String {
        let path = self.path(&fresh("secret"));
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.display().to_string()
    }

    async fn try_open(&self, url: &str) -> Result<KafkaEngine, EngineError> {
        let began = Instant::now();
        let opened = KafkaEngine::open(url.parse().unwrap(), &[]).await;
        assert!(began.elapsed() < SOON, "{url}: {:?}", began.elapsed());
        opened
    }

    /// Opens it, appends and reads.
    async fn passes(&self, url: &str) {
        let engine = self.try_open(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        let topic = fresh("t");
        engine.ensure_topic(&TopicSpec::new(&topic, 1)).await.unwrap();
        let at = TopicPartition::new(topic, 0);
        let next =
            engine.append(&at, Record::new("k", "v").into(), AppendOptions::default()).await.unwrap().next;
        let mut reader = engine.reader(&at, anabranch_core::engine::Position(0)).await.unwrap();
        assert_eq!(crate::read_to(&mut *reader, next).await.len(), 1);
        engine.close().await;
    }

    async fn is_refused(&self, url: &str) {
        match self.try_open(url).await {
            Err(EngineError::Unauthorised { reason, .. }) => {
                println!("{url}: {reason}");
                assert!(!reason.contains("wrong"), "{reason}");
            }
            other => panic!("{url}: {other:?}"),
        }
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        run(script().args(["stop", "--kill", "--dir"]).arg(self.dir.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in() {
    if std::env::var_os("ANABRANCH_KAFKA").is_none() {
        eprintln!("skipped: ANABRANCH_KAFKA is not set");
        return;
    }
    let doors = Doors::open();
    let (right, wrong) = (doors.secret("right"), doors.secret("wrong"));
    let sasl =
        format!("kafka://127.0.0.1:{}?security.protocol=sasl_plaintext&sasl.username=me", doors.port + 1);
    doors.passes(&format!("{sasl}&sasl.mechanisms=PLAIN&sasl.password_file={right}")).await;
    doors.is_refused(&format!("{sasl}&sasl.mechanisms=PLAIN&sasl.password_file={wrong}")).await;
    if !cfg!(feature = "tls") {
        eprintln!("skipped: SCRAM and TLS, which take the feature tls");
        return;
    }
    doors.passes(&format!("{sasl}&sasl.mechanisms=SCRAM-SHA-512&sasl.password_file={right}")).await;
    doors.is_refused(&format!("{sasl}&sasl.mechanisms=SCRAM-SHA-512&sasl.password_file={wrong}")).await;

    let ca = format!("ssl.ca.location={}", doors.path("ca.pem").display());
    let (client, key) = (doors.path("client.pem"), doors.path("client.key"));
    let identity =
        format!("ssl.certificate.location={}&ssl.key.location={}", client.display(), key.display());
    let tls = format!("kafkas://127.0.0.1:{}?", doors.port + 2);
    doors.passes(&format!("{tls}{ca}&{identity}")).await;
    // Nobody vouches for the server.
    doors.is_refused(&format!("{tls}{identity}")).await;
    // It wants to know who we are, and hangs up, in TLS 1.3 behind the handshake: there is nothing to tell it by.
    let error = doors.try_open(&format!("{tls}{ca}")).await.unwrap_err();
    assert!(matches!(error, EngineError::Away { .. } | EngineError::Unauthorised { .. }), "{error}");

    let both =
        format!("kafkas://127.0.0.1:{}?{ca}&sasl.username=me&sasl.mechanisms=SCRAM-SHA-512", doors.port + 3);
    doors.passes(&format!("{both}&sasl.password_file={right}")).await;
    doors.is_refused(&format!("{both}&sasl.password_file={wrong}")).await;
}
