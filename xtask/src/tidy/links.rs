//! Links between the repository's files lead somewhere.

use std::path::Path;

use super::File;

pub(super) fn check(root: &Path, files: &[File], findings: &mut Vec<String>) {
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let place = root.join(&file.path);
        let folder = place.parent().unwrap_or(root);
        for (line, target) in targets(&file.text) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !path.is_empty() && !folder.join(path).exists() {
                findings.push(format!("{}:{line}: there is no {path}", file.path));
            }
        }
    }
}

/// The targets of `[text](target)` with their lines, outside of code.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        for part in prose.split("](").skip(1) {
            let target = part.split([')', ' ']).next().unwrap_or_default();
            found.push((number + 1, target.trim_matches(['<', '>']).to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    #[test]
    fn finds_links_outside_of_code() {
        let text = "[a](b.md) and [`c`](d.md#e \"title\")\n```\n[no](x.md)\n```\n`[no](y.md)`\n";
        let found = targets(text);
        assert_eq!(found, [(1, "b.md".to_owned()), (1, "d.md#e".to_owned())]);
    }

    #[test]
    fn names_links_that_lead_nowhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "[a](src/main.rs) [b](https://example.com/x) [c](#here) [d](gone.md)";
        let mut findings = Vec::new();
        check(root, &[file("README.md", text)], &mut findings);
        assert_eq!(findings, ["README.md:1: there is no gone.md"]);
    }
}
