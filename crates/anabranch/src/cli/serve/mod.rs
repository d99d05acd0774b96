//! `anabranch serve`

mod limits;
mod settings;
mod settings_file;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;

use anabranch_broker::{Broker, BrokerError, OpenError};
use anabranch_serve::{Advertised, CONTROL_SOCKET, ServeConfig, ServeError, Server, check_loopback};
use anyhow::Context;
use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::settings::Settings;
use super::failure::{Advise, advised, has_colours, usage};
use super::output::{Column, Output};

/// Keep a durable log in a directory, and serve it to Kafka clients
///
/// Everything that was acknowledged is there when it is started again, however it ended. Ctrl-C or SIGTERM stops it
/// gracefully; a second one at once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{SETTINGS_HELP}")
)]
pub(super) struct ServeArgs {
    /// The data directory; created when missing [default: data]
    #[arg(long, value_name = "DIR", env = "ANABRANCH_DATA", hide_env_values = true)]
    data: Option<PathBuf>,
    /// Where Kafka clients connect; port 0 takes any that is free [default: 127.0.0.1:9092]
    #[arg(long, value_name = "ADDR", env = "ANABRANCH_KAFKA", hide_env_values = true, value_parser = parse_addr)]
    kafka: Option<SocketAddr>,
    /// What Kafka clients are told to connect to, when it is not where the door listens
    #[arg(long, value_name = "HOST:PORT", env = "ANABRANCH_ADVERTISE", hide_env_values = true)]
    advertise: Option<Advertised>,
    /// Where to answer health checks and metrics [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "ANABRANCH_HTTP", hide_env_values = true, value_parser = parse_addr)]
    http: Option<SocketAddr>,
    /// Listen on addresses that other machines can reach, although nothing asks who they are
    #[arg(long, env = "ANABRANCH_INSECURE_LISTEN", hide_env_values = true, value_parser = BoolishValueParser::new())]
    insecure_listen: bool,
    /// A TOML file with options and settings
    #[arg(
        long,
        value_name = "FILE",
        env = "ANABRANCH_CONFIG",
        hide_env_values = true,
        help_heading = "Settings"
    )]
    config: Option<PathBuf>,
    /// Set one setting; may be given many times
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Settings")]
    set: Vec<String>,
    /// Print every setting, its value and where it comes from, and do nothing
    #[arg(long, help_heading = "Settings")]
    show_settings: bool,
    /// How log lines on standard error look [default: human]
    #[arg(long, value_name = "FORMAT", env = "ANABRANCH_LOG_FORMAT", hide_env_values = true)]
    log_format: Option<LogFormat>,
}

const EXAMPLES: &str = "\
Examples:
  anabranch serve
  anabranch serve --data /var/lib/anabranch --http 127.0.0.1:9093 --log-format json
  anabranch serve --set num.partitions=3 --set log.segment.bytes=268435456
  anabranch serve --show-settings           Every setting, its value, and where it comes from";

const SETTINGS_HELP: &str = "\
Settings have Kafka's property names where Kafka has them. What comes last in this list holds:
  1. the default
  2. the file given by --config:

         data = \"/var/lib/anabranch\"
         kafka = \"127.0.0.1:9092\"
         http = \"127.0.0.1:9093\"
         log-format = \"json\"

         [set]
         num.partitions = 3
         log.segment.bytes = 268435456
         auto.create.topics.enable = false

  3. the environment: ANABRANCH_DATA, ANABRANCH_KAFKA, ... for options, and for settings ANABRANCH_SET_
     with the name in capitals and _ for every dot: ANABRANCH_SET_LOG_SEGMENT_BYTES=268435456
  4. the command line

On its HTTP address it answers /healthz, /readyz and /metrics (Prometheus).";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line, for log collectors
    Json,
}

/// `HOST:PORT`, where the host may be a name.
fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let mut found = text.to_socket_addrs().map_err(|error| format!("it is not HOST:PORT ({error})"))?;
    found.next().ok_or_else(|| "the name has no address".to_owned())
}

pub(super) fn run(args: ServeArgs, output: &mut Output) -> anyhow::Result<ExitCode> {
    let show = args.show_settings;
    let settings = Settings::gather(args, std::env::vars_os())?;
    if show {
        show_settings(&settings, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !settings.insecure_listen {
        for addr in [Some(settings.kafka), settings.http].into_iter().flatten() {
            check_loopback(addr).map_err(|refused| usage(refused.to_string())).advise(
                "Listen on 127.0.0.1, or say --insecure-listen if everybody who can reach it may read and write everything.",
            )?;
        }
    }
    start_logging(settings.log_format);
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(serve(settings, output))
}

async fn serve(settings: Settings, output: &mut Output) -> anyhow::Result<ExitCode> {
    // Listened to before anything is opened, so that a signal in the middle of a long recovery is not lost.
    let mut stop = Stop::new()?;
    let data = settings.data.clone();
    let opening = Broker::builder().data(&data).config(settings.broker).open();
    let opened = tokio::select! {
        opened = opening => opened,
        () = stop.asked() => return Ok(ExitCode::SUCCESS),
    };
    let broker = opened
        .with_context(|| format!("cannot open the data directory {}", data.display()))
        .map_err(|error| match error.downcast_ref().and_then(open_advice) {
            Some(advice) => advised(error, advice),
            None => error,
        })?;
    let config = ServeConfig {
        kafka_addr: settings.kafka,
        advertised: settings.advertise,
        http_addr: settings.http,
        control: Some(broker.data_dir().join(CONTROL_SOCKET)),
        limits: settings.limits,
    };
    let server = match Server::start(broker.clone(), config).await {
        Ok(server) => server,
        Err(error) => {
            broker.close().await;
            let advice = serve_advice(&error);
            return Err(error).advise(advice);
        }
    };
    // Clients do not care whether anybody reads this.
    if let Err(error) = tell_start(&server, &broker, &data, output) {
        tracing::warn!(%error, "nobody reads where the server is");
    }
    stop.asked().await;
    tracing::info!("stopping: requests in flight finish; once more stops at once");
    tokio::select! {
        () = async { server.shutdown().await; broker.close().await } => {}
        () = stop.asked() => {
            tracing::warn!("stopped at once; what was acknowledged is safe");
            std::process::exit(1);
        }
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The line that says it is up, for people and for whoever starts it and waits.
fn tell_start(
    server: &Server,
    broker: &Broker,
    data: &std::path::Path,
    output: &mut Output,
) -> anyhow::Result<()> {
    if output.is_json() {
        output.json(&serde_json::json!({
            "kafka": server.kafka_addr().to_string(),
            "advertised": server.advertised().to_string(),
            "http": server.http_addr().map(|addr| addr.to_string()),
            "data": data,
            "cluster_id": broker.cluster_id(),
        }))?;
    } else {
        let http = server.http_addr().map(|addr| format!(", metrics at http://{addr}/metrics"));
        output.line(format!(
            "anabranch is up: Kafka clients connect to {}{}; data in {}; Ctrl-C stops it",
            server.advertised(),
            http.unwrap_or_default(),
            data.canonicalize().as_deref().unwrap_or(data).display()
        ))?;
    }
    output.flush()
}

fn show_settings(settings: &Settings, output: &mut Output) -> anyhow::Result<()> {
    let entries = settings.describe();
    if output.is_json() {
        output.json(&entries)?;
    } else {
        let columns =
            [Column::Text("SETTING"), Column::Text("VALUE"), Column::Text("FROM"), Column::Text("MEANING")];
        let rows = entries
            .into_iter()
            .map(|entry| vec![entry.name.to_owned(), entry.value, entry.from, entry.meaning.to_owned()]);
        output.table(&columns, rows.collect())?;
    }
    output.flush()
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => lines.with_ansi(has_colours()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

/// Every connection and every segment is an open file, and the usual soft limit of 1,024 is meant for `select`.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Asked to stop, by Ctrl-C or by SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn open_advice(error: &BrokerError) -> Option<&'static str> {
    let advice = match error {
        BrokerError::Open(OpenError::InUse(_)) => {
            "Stop the other process, or give this one another directory with --data."
        }
        BrokerError::Open(OpenError::UnknownFormat { .. }) => {
            "Open it with the version that wrote it. Nothing in it was changed."
        }
        BrokerError::Open(OpenError::NotADataDirectory(_)) => "Nothing in it was changed.",
        BrokerError::Open(OpenError::Io { error, .. })
            if error.kind() == std::io::ErrorKind::PermissionDenied
                || error.kind() == std::io::ErrorKind::ReadOnlyFilesystem =>
        {
            "Give a directory with --data that this user may write to."
        }
        BrokerError::InternalTopic { .. } | BrokerError::InternalRecord { .. } => {
            "Nothing was changed. `anabranch check DIR` tells more; restore the directory from a backup."
        }
        _ => return None,
    };
    Some(advice)
}

fn serve_advice(error: &ServeError) -> String {
    match error {
        ServeError::Bind { door, error, .. } => {
            let option = if *door == "HTTP" { "--http" } else { "--kafka" };
            match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!(
                        "Another process listens there. Stop it, or choose another address with {option}."
                    )
                }
                _ => format!("Choose an address of this machine with {option}."),
            }
        }
        ServeError::NothingToAdvertise(_) => {
            "Say how clients reach this machine: --advertise HOST or --advertise HOST:PORT.".to_owned()
        }
    }
}
