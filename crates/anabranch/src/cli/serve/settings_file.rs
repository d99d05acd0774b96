//! The settings file: options by their names on the command line, and settings under `[set]`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anabranch_serve::Advertised;
use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::Origin;
use super::{LogFormat, parse_addr};
use crate::cli::failure::usage;
use crate::cli::nearest;

/// What a file says about options.
#[derive(Debug, Default)]
pub(super) struct FileOptions {
    pub(super) data: Option<PathBuf>,
    pub(super) kafka: Option<SocketAddr>,
    pub(super) advertise: Option<Advertised>,
    pub(super) http: Option<SocketAddr>,
    pub(super) insecure_listen: Option<bool>,
    pub(super) log_format: Option<LogFormat>,
}

const OPTIONS: [&str; 7] = ["data", "kafka", "advertise", "http", "insecure-listen", "log-format", "set"];

/// A setting's name, its value, and where it stands.
pub(super) type FileSetting = (String, String, Origin);

/// Reads a file; every error names it, and the line.
pub(super) fn read(path: &Path) -> anyhow::Result<(FileOptions, Vec<FileSetting>)> {
    let text = fs::read_to_string(path)
        .map_err(|error| usage(format!("cannot read the settings file {}: {error}", path.display())))?;
    parse(path, &text)
}

/// A file that is being read.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

fn parse(path: &Path, text: &str) -> anyhow::Result<(FileOptions, Vec<FileSetting>)> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        usage(format!("{}:{line}: it is not TOML: {}", path.display(), error.message()))
    })?;
    let file = File { path, text };
    let mut options = FileOptions::default();
    let mut settings = Vec::new();
    for (key, value) in table.get_ref() {
        file.take(key.get_ref(), key.span().start, value, &mut options, &mut settings)?;
    }
    Ok((options, settings))
}

impl File<'_> {
    fn take(
        &self,
        name: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
        options: &mut FileOptions,
        settings: &mut Vec<FileSetting>,
    ) -> anyhow::Result<()> {
        let wrong = |why: String| self.wrong(at, &format!("{name}: {why}"));
        let text = || match value.get_ref() {
            DeValue::String(text) => Ok(text.as_ref()),
            _ => Err(wrong("it must be a text in quotes".to_owned())),
        };
        match name {
            "data" => options.data = Some(PathBuf::from(text()?)),
            "kafka" => options.kafka = Some(parse_addr(text()?).map_err(wrong)?),
            "http" => options.http = Some(parse_addr(text()?).map_err(wrong)?),
            "advertise" => {
                options.advertise = Some(text()?.parse().map_err(|error| wrong(format!("{error}")))?);
            }
            "log-format" => options.log_format = Some(LogFormat::from_str(text()?, false).map_err(wrong)?),
            "insecure-listen" => match value.get_ref() {
                DeValue::Boolean(yes) => options.insecure_listen = Some(*yes),
                _ => return Err(wrong("it must be true or false".to_owned())),
            },
            "set" => match value.get_ref() {
                DeValue::Table(table) => self.flatten("", table, settings)?,
                _ => return Err(wrong("it must be a table".to_owned())),
            },
            _ => {
                let near = nearest(name, OPTIONS.into_iter())
                    .map(|near| format!("; did you mean {near}?"))
                    .unwrap_or_default();
                let text = format!("there is no option {name:?}{near} (settings stand under [set])");
                return Err(self.wrong(at, &text));
            }
        }
        Ok(())
    }

    /// TOML reads `num.partitions = 3` as a table in a table; the setting is called `num.partitions` all the same.
    fn flatten(
        &self,
        prefix: &str,
        table: &DeTable<'_>,
        settings: &mut Vec<FileSetting>,
    ) -> anyhow::Result<()> {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            let at = key.span().start;
            let value = match value.get_ref() {
                DeValue::Table(below) => {
                    self.flatten(&format!("{name}."), below, settings)?;
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.to_string(),
                    Err(error) => return Err(self.wrong(at, &format!("{name}: {error}"))),
                },
                DeValue::Float(number) => number.as_str().to_owned(),
                DeValue::Boolean(truth) => truth.to_string(),
                DeValue::Datetime(_) | DeValue::Array(_) => {
                    let text = format!("{name}: a setting is a text, a number, true or false");
                    return Err(self.wrong(at, &text));
                }
            };
            settings.push((
                name,
                value,
                Origin::File { path: self.path.to_owned(), line: line_of(self.text, at) },
            ));
        }
        Ok(())
    }

    fn wrong(&self, at: usize, why: &str) -> anyhow::Error {
        usage(format!("{}:{}: {why}", self.path.display(), line_of(self.text, at)))
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_settings_are_read_with_their_lines() {
        let text = "kafka = '127.0.0.1:1'\nlog-format = 'json'\ninsecure-listen = true\n\
            [set]\nlog.retention.ms = 1_000\n\"num.partitions\" = '3'\n[set.auto.create]\ntopics.enable = false\n";
        let (options, settings) = parse(Path::new("f"), text).unwrap();
        assert_eq!(options.kafka, Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(options.log_format, Some(LogFormat::Json));
        assert_eq!(options.insecure_listen, Some(true));
        let mut told: Vec<String> =
            settings.iter().map(|(name, value, from)| format!("{name}={value} at {from}")).collect();
        told.sort();
        assert_eq!(
            told,
            [
                "auto.create.topics.enable=false at f:8",
                "log.retention.ms=1000 at f:5",
                "num.partitions=3 at f:6"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            ("a = ", "f:1: it is not TOML"),
            ("\ndta = 'x'", "f:2: there is no option \"dta\"; did you mean data?"),
            ("\n\ndata = 1", "f:3: data: it must be a text"),
            ("kafka = 'nowhere'", "f:1: kafka: "),
            ("insecure-listen = 1", "f:1: insecure-listen: it must be true or false"),
            ("set = 1", "f:1: set: it must be a table"),
            ("[set]\nnum.partitions = [1]", "f:2: num.partitions: a setting is"),
            ("advertise = 'a b'", "f:1: advertise: "),
        ] {
            let error = parse(Path::new("f"), text).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
