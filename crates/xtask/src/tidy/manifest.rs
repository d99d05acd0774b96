//! What every crate must have: the workspace's lints, a description, and a first page for newcomers.

use super::Finding;
use super::repository::TextFile;

const ROOTS: [&str; 2] = ["src/lib.rs", "src/main.rs"];

/// Every crate in `crates/` takes the workspace's lints, describes itself, and its roots open with `//!`.
pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in files {
        let Some(folder) = manifest.path.strip_suffix("Cargo.toml").filter(|f| f.starts_with("crates/"))
        else {
            continue;
        };
        findings.extend(check_manifest(manifest));
        let roots = ROOTS.map(|root| format!("{folder}{root}"));
        let undocumented =
            files.iter().filter(|file| roots.contains(&file.path) && !file.text.starts_with("//!"));
        findings.extend(undocumented.map(|file| {
            Finding::error(&file.path, "does not open with `//!` lines that say what the crate is and why")
        }));
    }
    findings
}

fn check_manifest(manifest: &TextFile) -> Vec<Finding> {
    let error = |what: String| Finding::error(&manifest.path, what);
    let table: toml::Table = match manifest.text.parse() {
        Ok(table) => table,
        Err(unreadable) => return vec![error(format!("cannot be read: {}", unreadable.message()))],
    };
    let mut findings = Vec::new();
    let value = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key));
    if value("lints", "workspace").and_then(toml::Value::as_bool) != Some(true) {
        findings.push(error("lacks `[lints] workspace = true`, so the house's lints pass it by".to_owned()));
    }
    if value("package", "description").and_then(toml::Value::as_str).is_none_or(str::is_empty) {
        findings.push(error("lacks a description: one sentence that says what the crate is for".to_owned()));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\ndescription = \"An a.\"\n[lints]\nworkspace = true\n";

    fn told(files: &[(&str, &str)]) -> Vec<String> {
        let file = |&(path, text): &(&str, &str)| TextFile { path: path.to_owned(), text: text.to_owned() };
        check(&files.iter().map(file).collect::<Vec<_>>()).iter().map(ToString::to_string).collect()
    }

    /// The one finding for a manifest.
    fn told_of(manifest: &str) -> String {
        let [finding] = <[String; 1]>::try_from(told(&[("crates/a/Cargo.toml", manifest)])).unwrap();
        finding
    }

    #[test]
    fn a_good_crate_passes() {
        let lib = ("crates/a/src/lib.rs", "//! An a.\n");
        assert_eq!(told(&[("crates/a/Cargo.toml", GOOD), lib]), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_told() {
        assert!(told_of(&GOOD.replace("workspace = true", "workspace = false")).contains("lints"));
        assert!(told_of(&GOOD.replace("[lints]", "[other]")).contains("lints"));
        assert!(told_of(&GOOD.replace("An a.", "")).contains("description"));
        assert!(told_of(&GOOD.replace("description", "homepage")).contains("description"));
        assert!(told_of("[package").contains("cannot be read"));
    }

    #[test]
    fn a_root_without_a_first_page_is_told() {
        for root in ["crates/a/src/lib.rs", "crates/a/src/main.rs"] {
            let told =
                told(&[("crates/a/Cargo.toml", GOOD), (root, "fn main() {}\n"), ("crates/a/src/b.rs", "")]);
            assert_eq!(told.len(), 1);
            assert!(told[0].starts_with(&format!("error: {root}: ")), "{told:?}");
        }
    }

    #[test]
    fn what_is_no_crate_of_the_house_is_left_alone() {
        assert_eq!(told(&[("Cargo.toml", "[workspace]"), ("fuzz/Cargo.toml", "[package]")]), [""; 0]);
    }
}
