//! A repository that speaks of no machine: no folder of whoever wrote it, no host that packages came from.

use super::Finding;
use super::repository::TextFile;

/// Folders of a machine. A path is written relative to the repository, or asked of the system.
const FOLDERS: [&str; 4] = ["/root", "/home", "/work", "/tmp"];

/// Where package registries live. A package is named; its client knows the way.
const HOSTS: [&str; 11] = [
    "index.crates.io",
    "static.crates.io",
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "proxy.golang.org",
    "sum.golang.org",
    "repo.maven.apache.org",
    "repo1.maven.org",
    "deb.debian.org",
];

/// No tracked text names a folder of a machine or a registry's host, but `Cargo.lock`, where cargo writes its own, and
/// this file, which must know them.
pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    let exempt = |path: &str| path == file!() || path.rsplit('/').next() == Some("Cargo.lock");
    files.iter().filter(|file| !exempt(&file.path)).flat_map(check_file).collect()
}

fn check_file(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let document = file.path.ends_with(".md");
    let mut fenced = false;
    for (number, line) in (1..).zip(file.text.lines()) {
        fenced ^= document && line.trim_start().starts_with("```");
        let example = document && (fenced || line.starts_with("    "));
        let place = || format!("{}:{number}", file.path);
        if let Some(folder) = FOLDERS.iter().find(|folder| !example && names_folder(line, folder)) {
            let what = format!("names {folder}, a folder of one machine: say it relative to the repository");
            findings.push(Finding::error(place(), what));
        }
        if let Some(host) = HOSTS.iter().find(|host| line.contains(**host)) {
            let what = format!("names {host}: name the package, and leave the registry to its client");
            findings.push(Finding::error(place(), what));
        }
    }
    findings
}

/// Whether an absolute path in `line` starts with `folder`.
fn names_folder(line: &str, folder: &str) -> bool {
    let continues_word = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    line.match_indices(folder).any(|(at, _)| {
        let inside_a_path = line[..at].ends_with(|c: char| continues_word(c) || "/}>*~".contains(c));
        !inside_a_path && !line[at + folder.len()..].starts_with(continues_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, text: &str) -> Vec<String> {
        let file = TextFile { path: path.to_owned(), text: text.to_owned() };
        check(&[file]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn folders_of_a_machine_are_told() {
        for text in
            ["cd /work/project", "\"/root\"", "PATH=/home/me/bin", "a\n(/tmp/x)", "file:///tmp/x /tmp"]
        {
            assert_eq!(told("a.sh", text).len(), 1, "{text}");
        }
        assert_eq!(
            told("a.sh", "\n/tmp/x"),
            ["error: a.sh:2: names /tmp, a folder of one machine: say it relative to the repository"]
        );
    }

    #[test]
    fn relative_paths_and_longer_words_are_not_folders_of_a_machine() {
        for text in
            ["src/work/x", "./tmp/x", "$dir}/tmp", "/working", "/tmpfs", "/root-ca", "../home/x", "~/work"]
        {
            assert_eq!(told("a.sh", text), [""; 0], "{text}");
        }
    }

    #[test]
    fn shell_examples_in_documents_may_name_them() {
        let text = "```sh\nls /tmp/data\n```\n\n    ls /tmp/data\n";
        assert_eq!(told("a.md", text), [""; 0]);
        assert_eq!(told("a.md", "in `/tmp/data`").len(), 1);
        assert_eq!(told("a.rs", text).len(), 2);
    }

    #[test]
    fn hosts_of_registries_are_told_anywhere() {
        let text = "```\n\"resolved\": \"https://registry.npmjs.org/x.tgz\"\n```\n";
        for path in ["a.md", "package-lock.json"] {
            assert_eq!(told(path, text).len(), 1, "{path}");
        }
        assert_eq!(told("a.md", "taken from crates.io"), [""; 0]);
    }

    #[test]
    fn the_lock_file_and_the_law_itself_are_exempt() {
        for path in ["Cargo.lock", "fuzz/Cargo.lock", file!()] {
            assert_eq!(told(path, "https://index.crates.io/ /tmp/x"), [""; 0], "{path}");
        }
        assert_eq!(told("MyCargo.lock", "/tmp/x").len(), 1);
    }
}
