//! Documents that name only what exists: paths of the repository in code spans, and relative links.

use std::collections::HashSet;

use super::Finding;
use super::repository::TextFile;

/// Every path that a document names is tracked.
pub(super) fn check(files: &[TextFile], tracked: &[String]) -> Vec<Finding> {
    let tree = Tree::new(tracked);
    let documents = files.iter().filter(|file| file.path.ends_with(".md"));
    documents.flat_map(|file| check_document(file, &tree)).collect()
}

fn check_document(file: &TextFile, tree: &Tree<'_>) -> Vec<Finding> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    for (number, line) in prose(&file.text) {
        let mut tell = |what: String| findings.push(Finding::error(format!("{}:{number}", file.path), what));
        // Between back-quotes stands code, elsewhere prose: they alternate.
        let (mut prose, mut code) = (String::new(), Vec::new());
        for (at, part) in line.split('`').enumerate() {
            if at % 2 == 0 { prose.push_str(part) } else { code.extend(part.split_whitespace()) }
        }
        for word in code {
            let path = without_pattern(word.trim_start_matches("./"));
            let exists = || tree.has("", path) || tree.has(folder, path);
            if tree.is_below_a_top_folder(path) && !exists() {
                tell(format!("`{word}` is not in the repository"));
            }
        }
        for target in links(&prose) {
            if !tree.has(folder, target) {
                tell(format!("the link to {target} leads nowhere"));
            }
        }
    }
    findings
}

/// The lines outside fenced blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The folder above the first component that stands for many (`*`, `<name>`, `{a,b}`, `NNNN`), or the whole path
/// less a line number.
fn without_pattern(path: &str) -> &str {
    let path = path.split_once(':').map_or(path, |(path, _)| path).trim_end_matches(['.', ',', ';', ')']);
    let pattern =
        path.find(['*', '<', '{', '$', '…']).into_iter().chain(path.find("NNNN")).chain(path.find("..."));
    match pattern.min() {
        Some(at) => path[..at].rsplit_once('/').map_or("", |(folder, _)| folder),
        None => path,
    }
}

/// Targets of inline links and of reference definitions that point into the repository.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    let inline = prose.split("](").skip(1);
    let definition =
        prose.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
    inline.chain(definition).filter_map(|rest| {
        let target = rest.split([')', ' ']).next()?;
        let target = target.split('#').next()?;
        let elsewhere = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
        (!elsewhere).then_some(target)
    })
}

/// The tracked files, and the folders that they lie in.
struct Tree<'a> {
    entries: HashSet<&'a str>,
}

impl<'a> Tree<'a> {
    fn new(tracked: &'a [String]) -> Self {
        let mut entries = HashSet::from([""]);
        for path in tracked {
            entries.insert(path);
            entries.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
        }
        Self { entries }
    }

    /// Whether `path` starts with a folder at the top of the repository.
    fn is_below_a_top_folder(&self, path: &str) -> bool {
        path.split_once('/').is_some_and(|(top, _)| !top.is_empty() && self.entries.contains(top))
    }

    /// Whether `path`, seen from `folder`, is there.
    fn has(&self, folder: &str, path: &str) -> bool {
        let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if parts.pop().is_none() {
                        return false;
                    }
                }
                part => parts.push(part),
            }
        }
        self.entries.contains(parts.join("/").as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACKED: [&str; 4] =
        ["README.md", "crates/log/src/lib.rs", "docs/adr/0001-one.md", "docs/guide/start.md"];

    /// What is said about a document that holds only this.
    fn told(path: &str, text: &str) -> Vec<String> {
        let file = TextFile { path: path.to_owned(), text: text.to_owned() };
        let findings = check(&[file], &TRACKED.map(str::to_owned));
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_exists_may_be_named() {
        for text in [
            "see `crates/log/src/lib.rs`, `crates/log/` and `crates/log/src/lib.rs:12`",
            "run `cat ./crates/log/src/lib.rs --all`",
            "[a](docs/adr/0001-one.md) and [b](docs/guide/start.md#part), [c](#here), [d](https://example.org/x)",
            "`docs/adr/NNNN-title.md`, `crates/<room>/src/lib.rs`, `crates/*/tests/it/main.rs`, `crates/...`",
            "[one]: docs/adr/0001-one.md",
            "`http://crates/x` `tests/it/main.rs` `a/b` `produce/fetch`",
            "```\ncat crates/gone [x](gone.md) `crates/gone`\n```",
            "`table[0](crates)`",
        ] {
            assert_eq!(told("README.md", text), [""; 0], "{text}");
        }
        assert_eq!(told("docs/guide/start.md", "[up](../adr/0001-one.md) [top](../../README.md)"), [""; 0]);
    }

    #[test]
    fn what_is_gone_is_told_with_its_line() {
        for (text, expect) in [
            (
                "a\n\n`crates/gone/src/lib.rs`",
                "README.md:3: `crates/gone/src/lib.rs` is not in the repository",
            ),
            ("`cargo -p x crates/gone`", "README.md:1: `crates/gone` is not in the repository"),
            ("`docs/gone/NNNN-title.md`", "README.md:1: `docs/gone/NNNN-title.md` is not in the repository"),
            ("[a](gone.md#part)", "README.md:1: the link to gone.md leads nowhere"),
            ("[a](../README.md)", "README.md:1: the link to ../README.md leads nowhere"),
            ("[one]: gone.md", "README.md:1: the link to gone.md leads nowhere"),
            ("```\n```\n`crates/gone`", "README.md:3: `crates/gone` is not in the repository"),
        ] {
            assert_eq!(told("README.md", text), [format!("error: {expect}")], "{text}");
        }
        assert_eq!(told("docs/guide/start.md", "[up](adr/0001-one.md)").len(), 1);
    }

    #[test]
    fn only_documents_are_read() {
        assert_eq!(told("crates/log/src/lib.rs", "`crates/gone`"), [""; 0]);
    }
}
