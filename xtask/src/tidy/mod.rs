//! `cargo xtask tidy`: the house rules that no compiler knows. Also a test of this crate.

mod core_crate;
mod error_pages;
mod failpoints;
mod links;
mod sources;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// A source or documentation file of the repository.
#[derive(Debug)]
struct File {
    /// Its path from the root, with `/`.
    path: String,
    text: String,
}

/// Checks every rule; names every finding.
pub(crate) fn run() -> Result<()> {
    let findings = check(&workspace::root())?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings against the house rules (see CONTRIBUTING.md)", findings.len());
    }
    Ok(())
}

fn check(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut findings = Vec::new();
    error_pages::check(&files, &mut findings);
    sources::check(&files, &mut findings);
    core_crate::check(&files, &mut findings);
    failpoints::check(&files, &mut findings);
    links::check(root, &files, &mut findings);
    Ok(findings)
}

/// Reads what the rules look at: `.rs`, `.md` and manifests, outside of build output.
fn collect(folder: &Path, path: &str, files: &mut Vec<File>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {path}"))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let place = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        if entry.file_type()?.is_dir() {
            if name != "target" && name != ".git" {
                collect(&entry.path(), &place, files)?;
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") || name == "Cargo.toml" {
            let text = fs::read_to_string(entry.path());
            files.push(File {
                text: text.with_context(|| format!("cannot read {place}"))?,
                path: place,
            });
        }
    }
    Ok(())
}

/// The text of the file at `path`; a finding when it is missing.
fn text_of<'a>(files: &'a [File], path: &str, findings: &mut Vec<String>) -> &'a str {
    match files.iter().find(|file| file.path == path) {
        Some(file) => &file.text,
        None => {
            findings.push(format!("{path}: is missing"));
            ""
        }
    }
}

#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_keeps_its_house_rules() -> Result<()> {
        let findings = check(&workspace::root())?;
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
        Ok(())
    }
}
