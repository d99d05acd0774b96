//! What the laws are about: the tracked files, and the edges between our crates. The only part that does I/O.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, bail};
use serde::Deserialize;

/// The repository as git and cargo see it.
#[derive(Debug)]
pub(super) struct Repository {
    /// Our crates.
    pub(super) rooms: Vec<Room>,
    /// Every tracked file, text or not, as a path from the top.
    pub(super) tracked: Vec<String>,
    /// Those that hold text.
    pub(super) files: Vec<TextFile>,
}

/// One crate of ours.
#[derive(Debug)]
pub(super) struct Room {
    /// Its package's name.
    pub(super) name: String,
    /// What it uses.
    pub(super) uses: Vec<Use>,
}

/// A dependency of a room.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) name: String,
    /// Tests, benches and examples only.
    pub(super) dev: bool,
}

/// A tracked file.
#[derive(Debug)]
pub(super) struct TextFile {
    /// From the top of the repository, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl Repository {
    /// Reads the repository that the current folder lies in.
    pub(super) fn read() -> anyhow::Result<Self> {
        // Set by cargo for what it runs; the pinned toolchain's cargo, not whichever comes first in PATH.
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let arguments = ["metadata", "--no-deps", "--offline", "--format-version=1"];
        let metadata = output(Command::new(cargo).args(arguments))?;
        let metadata: Metadata =
            serde_json::from_slice(&metadata).context("reading what cargo metadata says")?;
        let top = &metadata.workspace_root;

        let listed = output(Command::new("git").args(["ls-files", "-z"]).current_dir(top))?;
        let listed = String::from_utf8(listed).context("a tracked file's name is not UTF-8")?;
        // A file that was just removed is still listed until that is staged.
        let exists = |path: &&str| !path.is_empty() && top.join(path).symlink_metadata().is_ok();
        let tracked: Vec<String> = listed.split('\0').filter(exists).map(str::to_owned).collect();

        let mut files = Vec::new();
        for path in &tracked {
            files.extend(read_text(top, path)?);
        }
        let rooms = metadata.packages.into_iter().map(Package::into_room).collect();
        Ok(Self { rooms, tracked, files })
    }
}

/// `None` for what is not text: data, pictures, links.
fn read_text(top: &Path, path: &str) -> anyhow::Result<Option<TextFile>> {
    let place = top.join(path);
    if !place.symlink_metadata()?.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(&place).with_context(|| format!("reading {path}"))?;
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    Ok(text.map(|text| TextFile { path: path.to_owned(), text }))
}

fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let done = command.output().with_context(|| format!("starting {command:?}"))?;
    if !done.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(done.stdout)
}

/// The part of `cargo metadata` that is read here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `null`, "build" or "dev".
    kind: Option<String>,
}

impl Package {
    fn into_room(self) -> Room {
        let of = |dependency: Dependency| Use {
            dev: dependency.kind.as_deref() == Some("dev"),
            name: dependency.name,
        };
        Room { name: self.name, uses: self.dependencies.into_iter().map(of).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_dependencies_are_told_apart() {
        let metadata = r#"{"workspace_root": "top", "packages": [{"name": "a", "dependencies": [
            {"name": "used", "kind": null}, {"name": "built", "kind": "build"}, {"name": "tested", "kind": "dev"}]}]}"#;
        let metadata: Metadata = serde_json::from_str(metadata).unwrap();
        let room = metadata.packages.into_iter().next().unwrap().into_room();
        let uses: Vec<_> = room.uses.iter().map(|used| (used.name.as_str(), used.dev)).collect();
        assert_eq!(uses, [("used", false), ("built", false), ("tested", true)]);
    }

    #[test]
    fn only_text_is_text() {
        let top = tempfile::tempdir().unwrap();
        let text = |name: &str, bytes: &[u8]| {
            fs::write(top.path().join(name), bytes).unwrap();
            read_text(top.path(), name).unwrap().map(|file| file.text)
        };
        assert_eq!(text("a", b"words"), Some("words".to_owned()));
        assert_eq!(text("b", b"nul\0"), None);
        assert_eq!(text("c", b"\xff"), None);
        assert!(read_text(top.path(), "missing").is_err());
    }

    #[test]
    fn a_failing_command_is_told() {
        let error = output(Command::new("git").arg("no-such-chore")).unwrap_err();
        assert!(error.to_string().contains("no-such-chore"), "{error}");
    }
}
