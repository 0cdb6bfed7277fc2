//! Source files are short and hold nothing unfinished.

use super::File;

/// The most lines of a file below `crates/*/src`.
const LINES_MAX: usize = 500;

/// What marks unfinished work. In pieces, so that this file keeps its own rule.
const UNFINISHED: [&str; 5] = [
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("#[ig", "nore"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
];

pub(super) fn check(files: &[File], findings: &mut Vec<String>) {
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let lines = file.text.lines().count();
        if is_crate_source(&file.path) && lines > LINES_MAX {
            findings.push(format!("{}: {lines} lines; {LINES_MAX} at most", file.path));
        }
        for (number, line) in file.text.lines().enumerate() {
            for mark in UNFINISHED.into_iter().filter(|mark| line.contains(mark)) {
                findings.push(format!("{}:{}: `{mark}`", file.path, number + 1));
            }
        }
    }
}

fn is_crate_source(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("crates") && parts.nth(1) == Some("src")
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    #[test]
    fn names_long_files_and_unfinished_work() {
        let files = [
            file("crates/shop/src/lib.rs", &"\n".repeat(501)),
            file("crates/shop/tests/main.rs", &"\n".repeat(501)),
            file("examples/shop/src/lib.rs", concat!("fn f() {\n    // TO", "DO: finish\n}")),
        ];
        let mut findings = Vec::new();
        check(&files, &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].starts_with("crates/shop/src/lib.rs: 501 lines"));
        assert!(findings[1].starts_with("examples/shop/src/lib.rs:2: "));
    }
}
