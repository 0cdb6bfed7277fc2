//! Every failpoint is passed somewhere and struck by a test or by the demo; what is passed is listed.

use super::{File, text_of};

const FAILPOINTS: &str = "crates/onewrite-core/src/failpoint.rs";
const CORE: &str = "crates/onewrite-core/";
/// The lists in [`FAILPOINTS`]; a test that goes through one strikes each point in it.
const LISTS: [&str; 3] = ["ALL", "SAGA", "BETWEEN_ACT_AND_ACK"];

pub(super) fn check(files: &[File], findings: &mut Vec<String>) {
    let core = text_of(files, FAILPOINTS, findings);
    let is_other = |path: &str| {
        path.ends_with(".rs") && !path.starts_with(CORE) && !path.starts_with("xtask/")
    };
    let others = || files.iter().filter(|file| is_other(&file.path));
    // The third is a part of the first.
    let all = [list(core, LISTS[0]), list(core, LISTS[1])].concat();
    if all.is_empty() {
        findings.push(format!("{FAILPOINTS}: no list `{}` of failpoints", LISTS[0]));
    }
    for file in others() {
        for passed in file.text.split("failpoint::hit(\"").skip(1) {
            let name = passed.split('"').next().unwrap_or_default();
            if !all.contains(&name) {
                findings
                    .push(format!("{}: passes `{name}`, which is not in {FAILPOINTS}", file.path));
            }
        }
    }
    for name in all {
        let hit = format!("hit(\"{name}\")");
        if !others().any(|file| file.text.contains(&hit)) {
            findings.push(format!("{FAILPOINTS}: nothing passes `{name}` (`{hit}`)"));
        }
        let struck = |text: &str| {
            text.contains(&format!("\"{name}\""))
                || LISTS.iter().any(|of| {
                    text.contains(&format!("failpoint::{of}")) && list(core, of).contains(&name)
                })
        };
        if !others().any(|file| struck(test_part(file))) {
            findings.push(format!("{FAILPOINTS}: no test and no demo strikes `{name}`"));
        }
    }
}

/// The names in `pub const LIST: &[&str] = &[…];`.
fn list<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let head = format!("const {name}: &[&str] = &[");
    let Some(start) = text.find(&head).map(|at| at + head.len()) else { return Vec::new() };
    let body = text[start..].split("];").next().unwrap_or_default();
    body.split('"').skip(1).step_by(2).collect()
}

/// What of a file is a test or the demo: all of it, its test module, or nothing.
fn test_part(file: &File) -> &str {
    let whole = file.path.ends_with("_test.rs")
        || file.path.split('/').any(|part| part == "tests" || part.starts_with("demo"))
        || file.path.starts_with("crates/onewrite-testkit/");
    if whole {
        return &file.text;
    }
    file.text.find("#[cfg(test)]").map_or("", |at| &file.text[at..])
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    fn findings(test: &str) -> Vec<String> {
        let points = "pub const ALL: &[&str] = &[\n    \"a.before\",\n    \"a.after\",\n];\n\
            pub const BETWEEN_ACT_AND_ACK: &[&str] = &[\"a.after\"];\n";
        let files = [
            file(FAILPOINTS, points),
            file("crates/shop/src/lib.rs", "fn f() { hit(\"a.before\"); hit(\"a.after\"); }"),
            file("crates/shop/tests/main.rs", test),
        ];
        let mut findings = Vec::new();
        check(&files, &mut findings);
        findings
    }

    #[test]
    fn names_points_that_nothing_strikes() {
        assert_eq!(findings("kill_at(\"a.before\")").len(), 1);
        assert_eq!(findings("for point in failpoint::BETWEEN_ACT_AND_ACK {}").len(), 1);
        assert!(findings("for point in failpoint::ALL {}").is_empty());
    }

    #[test]
    fn names_points_that_are_not_listed() {
        let passes = format!("fn f() {{ failpoint::{}(\"c\"); }}", "hit");
        let files = [file(FAILPOINTS, "const ALL: &[&str] = &[];"), file("src/x.rs", &passes)];
        let mut findings = Vec::new();
        check(&files, &mut findings);
        assert!(findings.iter().any(|finding| finding.contains("passes `c`")), "{findings:?}");
    }

    #[test]
    fn names_points_that_nothing_passes() {
        let files =
            [file(FAILPOINTS, "const ALL: &[&str] = &[\"b\"];"), file("tests/x.rs", "\"b\"")];
        let mut findings = Vec::new();
        check(&files, &mut findings);
        assert!(findings.len() == 1 && findings[0].contains("nothing passes"), "{findings:?}");
    }
}
