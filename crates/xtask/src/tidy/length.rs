//! Files that can be read in one sitting, and a core that stays small.

use super::Finding;
use super::repository::TextFile;

const FILE_LINES_WARN: usize = 800;
const FILE_LINES_MAX: usize = 1_500;
/// What does not have to be shared does not live in core.
const CORE_LINES_WARN: usize = 3_000;
const CORE: &str = "crates/core/";

/// No Rust file is too long, and core as a whole is not.
pub(super) fn check(files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut core_lines = 0;
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let lines = file.text.lines().count();
        if file.path.starts_with(CORE) {
            core_lines += lines;
        }
        if lines > FILE_LINES_MAX {
            let what = format!("{lines} lines; a Rust file has at most {FILE_LINES_MAX}: split it");
            findings.push(Finding::error(&file.path, what));
        } else if lines > FILE_LINES_WARN {
            let what = format!("{lines} lines; aim under {FILE_LINES_WARN}");
            findings.push(Finding::warning(&file.path, what));
        }
    }
    if core_lines > CORE_LINES_WARN {
        let what =
            format!("{core_lines} lines of Rust; aim under {CORE_LINES_WARN}: what is not shared leaves");
        findings.push(Finding::warning(CORE, what));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn file(path: &str, lines: usize) -> TextFile {
        TextFile { path: path.to_owned(), text: "\n".repeat(lines) }
    }

    fn levels(files: &[TextFile]) -> Vec<Level> {
        check(files).into_iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn long_files_are_told() {
        for (lines, expect) in
            [(800, &[][..]), (801, &[Level::Warning]), (1_500, &[Level::Warning]), (1_501, &[Level::Error])]
        {
            assert_eq!(levels(&[file("crates/log/src/lib.rs", lines)]), expect, "{lines} lines");
        }
        assert_eq!(levels(&[file("data.csv", 9_999)]), []);
    }

    #[test]
    fn a_growing_core_is_told() {
        let told = |last| levels(&[750, 750, 750, last].map(|lines| file("crates/core/src/lib.rs", lines)));
        assert_eq!(told(750), []);
        assert_eq!(told(751), [Level::Warning]);
    }
}
