//! The test binaries: built by cargo, found in its messages, asked for their tests.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Case;
use crate::workspace;

/// What cargo built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// The binaries that hold tests.
    pub(crate) tests: Vec<Binary>,
    /// Programs that tests may start: name and path.
    programs: Vec<(String, PathBuf)>,
}

/// One test binary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    /// `package`, or `package/target` when the target is not the library.
    pub(crate) label: String,
    /// Whether it is an integration test.
    pub(crate) integration: bool,
    package: String,
    executable: PathBuf,
    /// The folder of its package: tests run there, as under `cargo test`.
    folder: PathBuf,
}

/// Builds every test of the workspace with every feature.
pub(crate) fn build() -> Result<Built> {
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--all-features", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut built = Built::default();
    if let Some(messages) = child.stdout.take() {
        for line in BufReader::new(messages).lines() {
            // A line that is no JSON is the talk of a build script or a linker.
            if let Ok(message) = serde_json::from_str(&line?) {
                built.note(&message);
            }
        }
    }
    if !child.wait()?.success() {
        bail!("the tests do not build");
    }
    built.tests.sort_by(|a, b| a.label.cmp(&b.label));
    Ok(built)
}

impl Built {
    /// Takes what one message of cargo says about an executable.
    fn note(&mut self, message: &Value) {
        let text = |pointer| message.pointer(pointer).and_then(Value::as_str);
        let (Some("compiler-artifact"), Some(executable)) = (text("/reason"), text("/executable"))
        else {
            return;
        };
        let name = text("/target/name").unwrap_or_default();
        let kind = text("/target/kind/0").unwrap_or_default();
        if message.pointer("/profile/test").and_then(Value::as_bool) != Some(true) {
            if kind == "bin" {
                self.programs.push((name.to_owned(), executable.into()));
            }
            return;
        }
        let package = package_name(text("/package_id").unwrap_or_default());
        let own_target = matches!(kind, "test" | "bin" | "bench" | "example");
        let label = if own_target { format!("{package}/{name}") } else { package.clone() };
        let manifest = Path::new(text("/manifest_path").unwrap_or_default());
        self.tests.push(Binary {
            label,
            integration: kind == "test",
            package,
            executable: executable.into(),
            folder: manifest.parent().unwrap_or(manifest).to_path_buf(),
        });
    }

    /// The command that runs one test alone.
    pub(crate) fn command(&self, case: &Case) -> Command {
        let mut command = self.tests[case.binary].command();
        command.args([case.name.as_str(), "--exact", "--nocapture"]);
        for (name, path) in &self.programs {
            command.env(format!("CARGO_BIN_EXE_{name}"), path);
        }
        command
    }
}

impl Binary {
    /// The names of its tests.
    pub(crate) fn list(&self) -> Result<Vec<String>> {
        let output = self.command().args(["--list", "--format", "terse"]).output();
        let output = output.with_context(|| format!("cannot start the tests of {}", self.label))?;
        if !output.status.success() {
            bail!(
                "{} does not list its tests: {}",
                self.label,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let listed = String::from_utf8_lossy(&output.stdout);
        Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(Into::into).collect())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.folder);
        command.env("CARGO_MANIFEST_DIR", &self.folder).env("CARGO_PKG_NAME", &self.package);
        command
    }
}

/// The name in a package id: `path+file:///…/folder#0.1.0` or `path+file:///…/folder#name@0.1.0`.
fn package_name(id: &str) -> String {
    let (place, version) = id.rsplit_once('#').unwrap_or((id, ""));
    let name = match version.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next().unwrap_or(place),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn artifact(kind: &str, test: bool, executable: Option<&str>) -> Value {
        json!({
            "reason": "compiler-artifact",
            "package_id": "path+file:///src/crates/shop#0.1.0",
            "manifest_path": "/src/crates/shop/Cargo.toml",
            "target": { "kind": [kind], "name": "main" },
            "profile": { "test": test },
            "executable": executable,
        })
    }

    #[test]
    fn finds_tests_and_programs_among_the_messages() {
        let mut built = Built::default();
        built.note(&json!({ "reason": "build-finished", "success": true }));
        built.note(&artifact("lib", false, None));
        built.note(&artifact("lib", true, Some("/t/shop-1")));
        built.note(&artifact("test", true, Some("/t/main-2")));
        built.note(&artifact("bin", false, Some("/t/main")));
        let labels: Vec<_> = built.tests.iter().map(|binary| binary.label.as_str()).collect();
        assert_eq!(labels, ["shop", "shop/main"]);
        assert!(built.tests[1].integration && !built.tests[0].integration);
        assert_eq!(built.tests[0].folder, Path::new("/src/crates/shop"));
        assert_eq!(built.programs, [("main".to_owned(), PathBuf::from("/t/main"))]);
    }

    #[test]
    fn reads_the_name_out_of_a_package_id() {
        assert_eq!(package_name("path+file:///src/crates/shop#0.1.0"), "shop");
        assert_eq!(
            package_name("path+file:///src/examples/shop#onewrite-shop@0.1.0"),
            "onewrite-shop"
        );
    }
}
