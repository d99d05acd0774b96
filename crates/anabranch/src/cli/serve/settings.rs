//! What `serve` is told, from all sides: defaults, then the file, then the environment, then the command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use anabranch_broker::config::broker::BROKER_SETTINGS;
use anabranch_broker::{BrokerConfig, ConfigError};
use anabranch_serve::{Advertised, Limits};
use serde::Serialize;

use super::limits::LIMITS;
use super::settings_file::{self, FileOptions};
use super::{LogFormat, ServeArgs};
use crate::cli::failure::usage;

/// Only these are ours to refuse: container platforms put variables such as `ANABRANCH_PORT` into every environment.
const ENVIRONMENT_PREFIX: &str = "ANABRANCH_SET_";

/// Everything that `serve` needs to know.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) data: PathBuf,
    pub(super) kafka: SocketAddr,
    pub(super) advertise: Option<Advertised>,
    pub(super) http: Option<SocketAddr>,
    pub(super) insecure_listen: bool,
    pub(super) log_format: LogFormat,
    pub(super) broker: BrokerConfig,
    pub(super) limits: Limits,
    origins: BTreeMap<String, Origin>,
}

/// Who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    File { path: PathBuf, line: usize },
    Environment(String),
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::CommandLine => f.write_str("--set"),
        }
    }
}

/// A setting as `--show-settings` tells it.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) from: String,
    pub(super) meaning: &'static str,
}

impl Settings {
    /// Lays everything over one another. `environment` is the process's.
    pub(super) fn gather(
        args: ServeArgs,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> anyhow::Result<Self> {
        let (options, from_file) = match &args.config {
            Some(path) => settings_file::read(path)?,
            None => (FileOptions::default(), Vec::new()),
        };
        let default = anabranch_serve::ServeConfig::default();
        let mut settings = Self {
            data: args.data.or(options.data).unwrap_or_else(|| PathBuf::from("data")),
            kafka: args.kafka.or(options.kafka).unwrap_or(default.kafka_addr),
            advertise: args.advertise.or(options.advertise),
            http: args.http.or(options.http),
            insecure_listen: args.insecure_listen || options.insecure_listen.unwrap_or(false),
            log_format: args.log_format.or(options.log_format).unwrap_or(LogFormat::Human),
            broker: defaults(),
            limits: Limits::default(),
            origins: BTreeMap::new(),
        };
        for (name, value, origin) in from_file {
            settings.set(&name, &value, origin)?;
        }
        settings.set_from_environment(environment)?;
        for pair in &args.set {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(usage(format!("--set {pair}: it is not KEY=VALUE")));
            };
            settings.set(name.trim(), value, Origin::CommandLine)?;
        }
        Ok(settings)
    }

    fn set_from_environment(
        &mut self,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> anyhow::Result<()> {
        let mut found: Vec<(String, OsString)> = environment
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        found.sort();
        for (variable, value) in found {
            let origin = Origin::Environment(variable.clone());
            let Ok(value) = value.into_string() else {
                return Err(usage(format!("{origin}: its value is not UTF-8")));
            };
            let given = &variable[ENVIRONMENT_PREFIX.len()..];
            let name = known_names().find(|name| environment_form(name) == given);
            let spelled = given.to_ascii_lowercase().replace('_', ".");
            self.set(name.unwrap_or(&spelled), &value, origin)?;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str, origin: Origin) -> anyhow::Result<()> {
        match LIMITS.iter().find(|limit| limit.name == name) {
            Some(limit) => {
                let (min, max) = limit.range;
                match value.trim().parse() {
                    Ok(number) if (min..=max).contains(&number) => (limit.set)(&mut self.limits, number),
                    _ => {
                        let must = format!("it must be a whole number from {min} to {max}");
                        return Err(usage(format!("{origin}: {name} cannot be {value:?}: {must}")));
                    }
                }
            }
            None => self.broker.set(name, value).map_err(|error| match error {
                ConfigError::Unknown(_) => usage(unknown(name, &origin)),
                other => usage(format!("{origin}: {other}")),
            })?,
        }
        self.origins.insert(name.to_owned(), origin);
        Ok(())
    }

    /// Every setting, by name.
    pub(super) fn describe(&self) -> Vec<Entry> {
        let from =
            |name: &str| self.origins.get(name).map_or_else(|| "default".to_owned(), ToString::to_string);
        let broker = self.broker.describe().into_iter().map(|entry| Entry {
            name: entry.name,
            value: entry.value.unwrap_or_default(),
            from: from(entry.name),
            meaning: entry.documentation,
        });
        let doors = LIMITS.iter().map(|limit| Entry {
            name: limit.name,
            value: (limit.get)(&self.limits).to_string(),
            from: from(limit.name),
            meaning: limit.meaning,
        });
        let mut entries: Vec<Entry> = broker.chain(doors).collect();
        entries.sort_by_key(|entry| entry.name);
        entries
    }
}

/// The broker's defaults, and Kafka's where a server is another thing than a library: its groups wait for the members of
/// several processes that start together, and some clients stumble when they are made to join twice in a row.
fn defaults() -> BrokerConfig {
    let delay = BrokerConfig::default().with("group.initial.rebalance.delay.ms", "3000");
    delay.expect("the setting exists and takes milliseconds")
}

fn known_names() -> impl Iterator<Item = &'static str> {
    BROKER_SETTINGS.iter().map(|setting| setting.name).chain(LIMITS.iter().map(|limit| limit.name))
}

fn environment_form(name: &str) -> String {
    name.to_ascii_uppercase().replace('.', "_")
}

fn unknown(name: &str, origin: &Origin) -> String {
    let mut text = format!("{origin}: there is no setting {name:?}");
    if let Some(near) = super::super::nearest(name, known_names()) {
        let near = match origin {
            Origin::Environment(_) => format!("{ENVIRONMENT_PREFIX}{}", environment_form(near)),
            _ => near.to_owned(),
        };
        text.push_str(&format!("; did you mean {near}?"));
    }
    text + " (`anabranch serve --show-settings` lists them all)"
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn gather(line: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let args = Line::try_parse_from([&["serve"], line].concat())?.args;
        let environment =
            environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Settings::gather(args, environment)
    }

    fn value(settings: &Settings, name: &str) -> (String, String) {
        let entry = settings.describe().into_iter().find(|entry| entry.name == name).unwrap();
        (entry.value, entry.from)
    }

    #[test]
    fn what_is_said_last_holds() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        std::fs::write(
            &file,
            "data = 'd'\nhttp = '127.0.0.1:1'\n[set]\nnum.partitions = 2\n'max.connections' = 3\n",
        )
        .unwrap();
        let config = ["--config", file.to_str().unwrap()];

        let settings = gather(&config, &[]).unwrap();
        assert_eq!(settings.data, PathBuf::from("d"));
        assert_eq!(value(&settings, "num.partitions"), ("2".into(), format!("{}:4", file.display())));
        assert_eq!(value(&settings, "max.connections").0, "3");
        assert_eq!(settings.limits.connections_max, 3);
        assert_eq!(value(&settings, "log.retention.ms").1, "default");

        let environment =
            [("ANABRANCH_SET_NUM_PARTITIONS", "4"), ("ANABRANCH_PORT", "tcp://x"), ("OTHER", "")];
        let settings = gather(&config, &environment).unwrap();
        assert_eq!(value(&settings, "num.partitions").0, "4");

        let line = [&config[..], &["--set", "num.partitions=5", "--data", "e"]].concat();
        let settings = gather(&line, &environment).unwrap();
        assert_eq!(value(&settings, "num.partitions"), ("5".into(), "--set".into()));
        assert_eq!(settings.data, PathBuf::from("e"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_source_and_the_nearest_name() {
        let told =
            |line: &[&str], environment: &[(&str, &str)]| gather(line, environment).unwrap_err().to_string();
        let text = told(&["--set", "log.segment.byte=1"], &[]);
        assert!(
            text.contains("--set: there is no setting \"log.segment.byte\"; did you mean log.segment.bytes?"),
            "{text}"
        );
        let text = told(&[], &[("ANABRANCH_SET_NUM_PARTITION", "1")]);
        assert!(text.contains("ANABRANCH_SET_NUM_PARTITION: "), "{text}");
        assert!(text.contains("did you mean ANABRANCH_SET_NUM_PARTITIONS?"), "{text}");
        let text = told(&["--set", "max.connections=none"], &[]);
        assert!(text.contains("--set: max.connections cannot be \"none\": it must be"), "{text}");
        let text = told(&["--set", "num.partitions=0"], &[]);
        assert!(text.contains("--set: num.partitions cannot be \"0\": it must be"), "{text}");
        let text = told(&["--set", "log.dirs=/a,/b"], &[]);
        assert!(text.contains("--set: log.dirs cannot be set here: there is one data directory"), "{text}");
        let text = told(&[], &[("ANABRANCH_SET_NODE_ID", "1")]);
        assert!(
            text.contains("ANABRANCH_SET_NODE_ID: node.id cannot be set here: there is no controller"),
            "{text}"
        );
        assert!(told(&["--set", "num.partitions"], &[]).contains("KEY=VALUE"));
        assert!(!told(&["--set", "zzzzzzzzzzzzzz=1"], &[]).contains("did you mean"));
    }
}
