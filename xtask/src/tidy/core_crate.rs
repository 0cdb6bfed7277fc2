//! The core is pure: no runtime, no SQL, no sockets. Its dependencies are a closed list.

use super::{File, text_of};

const MANIFEST: &str = "crates/onewrite-core/Cargo.toml";
const ALLOWED: [&str; 5] = ["base64", "bytes", "bytestring", "serde", "serde_json"];

pub(super) fn check(files: &[File], findings: &mut Vec<String>) {
    for name in dependencies(text_of(files, MANIFEST, findings)) {
        if !ALLOWED.contains(&name) {
            findings
                .push(format!("{MANIFEST}: depends on {name}; only {} may", ALLOWED.join(", ")));
        }
    }
}

/// The names in `[dependencies]` and its kin (`[target.….dependencies]`, `[dependencies.NAME]`).
/// What only tests or the build need is not looked at.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = section == "dependencies"
                || (section.starts_with("target.") && section.ends_with(".dependencies"));
            names.extend(section.strip_prefix("dependencies."));
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            names.extend(line.split(['.', '=', ' ']).next());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_dependencies_of_a_manifest() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nserde.workspace = true\n\
            # why\nbytes = \"1\"\n[dependencies.tokio]\nversion = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
        assert_eq!(dependencies(manifest), ["serde", "bytes", "tokio"]);
    }
}
