//! Every error code has its page in the book, every page its code, and the summary lists them.

use std::collections::BTreeSet;

use super::{File, text_of};

const CODES: &str = "crates/onewrite-core/src/error.rs";
const PAGES: &str = "book/src/errors/";
const SUMMARY: &str = "book/src/SUMMARY.md";
const SECTIONS: [&str; 3] = ["## What it means", "## What onewrite did already", "## What you do"];

pub(super) fn check(files: &[File], findings: &mut Vec<String>) {
    let codes = codes(text_of(files, CODES, findings));
    let summary = text_of(files, SUMMARY, findings);
    let page = |code: &str| format!("{PAGES}{code}.md");
    for code in &codes {
        if !files.iter().any(|file| file.path == page(code)) {
            findings.push(format!("{CODES}: {code} has no page {}", page(code)));
        } else if !summary.contains(&format!("errors/{code}.md")) {
            findings.push(format!("{SUMMARY}: does not list errors/{code}.md"));
        }
    }
    for file in files.iter().filter(|file| file.path.starts_with(PAGES)) {
        let code = file.path.trim_start_matches(PAGES).trim_end_matches(".md");
        if !codes.contains(code) {
            findings.push(format!("{}: there is no code {code}", file.path));
        }
        if !file.text.starts_with(&format!("# {code}: ")) {
            findings.push(format!("{}: does not begin with `# {code}: `", file.path));
        }
        for section in SECTIONS {
            if !file.text.lines().any(|line| line == section) {
                findings.push(format!("{}: lacks `{section}`", file.path));
            }
        }
    }
}

/// The codes of the table: `Name = "OW0001", …`.
fn codes(text: &str) -> BTreeSet<&str> {
    text.match_indices("= \"OW")
        .filter_map(|(at, _)| text.get(at + 3..at + 9))
        .filter(|code| code[2..].bytes().all(|byte| byte.is_ascii_digit()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    #[test]
    fn names_codes_without_pages_and_pages_without_codes() {
        let files = [
            file(CODES, "One = \"OW0001\", Never; Two = \"OW0002\", Never;"),
            file(SUMMARY, "[OW0001](errors/OW0001.md)"),
            file(
                "book/src/errors/OW0001.md",
                "# OW0001: One\n## What it means\n## What onewrite did already\n## What you do\n",
            ),
            file("book/src/errors/OW0003.md", "# OW0003: Three\n"),
        ];
        let mut findings = Vec::new();
        check(&files, &mut findings);
        assert!(findings.iter().any(|finding| finding.contains("OW0002 has no page")));
        assert!(findings.iter().any(|finding| finding.contains("there is no code OW0003")));
        assert!(!findings.iter().any(|finding| finding.contains("OW0001")), "{findings:?}");
    }
}
