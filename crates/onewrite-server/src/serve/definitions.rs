//! Definitions that the server has from files: whoever starts a saga names one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use onewrite::{Code, Error, Result, saga::Checked};

use super::participants::Services;
use crate::cli::saga::definition;

/// Endings of files that hold definitions, where a folder is named.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Definitions by name and version.
#[derive(Default)]
pub(super) struct Definitions(BTreeMap<String, BTreeMap<String, Arc<Checked>>>);

impl Definitions {
    /// Reads the files, and those of the folders.
    ///
    /// # Errors
    /// [`Code::InvalidSaga`] with everything that is wrong in a file, [`Code::UnknownParticipant`] for a
    /// participant that nobody has named, [`Code::InvalidConfig`] for two of one name and version, or a place
    /// without any.
    pub(super) fn read(paths: &[PathBuf], services: &Services) -> Result<Self> {
        let mut all = Self::default();
        for path in paths {
            for file in files(path)? {
                let checked = definition(&file)?;
                let at = || format!("in {}", file.display());
                services
                    .check(&checked)
                    .map_err(|error| Error::new(error.code(), at()).with_source(error))?;
                all.add(checked, &at())?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, checked: Checked, at: &str) -> Result<()> {
        let said = checked.definition();
        let (name, version) = (said.name.clone(), said.version.clone().unwrap_or_default());
        let versions = self.0.entry(name.clone()).or_default();
        if versions.contains_key(&version) {
            let what = format!("{at}: a definition `{}` was read before", shown(&name, &version));
            let cure = "Give one of the two another `version`, or leave its file out.";
            return Err(Error::new(Code::InvalidConfig, what).with_cure(cure));
        }
        versions.insert(version, Arc::new(checked));
        Ok(())
    }

    /// The definition of this name, where there is one of it, or of this `NAME@VERSION`.
    ///
    /// # Errors
    /// [`Code::NotFound`], with what there is; [`Code::InvalidInput`] where the name is not enough.
    pub(super) fn find(&self, wanted: &str) -> Result<Arc<Checked>> {
        let (name, version) = wanted.split_once('@').unwrap_or((wanted, ""));
        let versions = self.0.get(name);
        if let Some(found) = versions.and_then(|versions| versions.get(version)) {
            return Ok(Arc::clone(found));
        }
        let mut all = versions.into_iter().flatten();
        match (version, all.next(), all.next()) {
            ("", Some((_, only)), None) => Ok(Arc::clone(only)),
            (_, None, _) => {
                let what = format!(
                    "there is no definition `{}` here: send it whole, or start the server with --definitions",
                    wanted.escape_debug()
                );
                let cure = "Check the spelling, send the definition whole, or start the server with `--definitions PATH`.";
                Err(Error::new(Code::NotFound, what).with_cure(cure))
            }
            _ => {
                let known = versions.into_iter().flatten().map(|(version, _)| shown(name, version));
                let known = known.collect::<Vec<_>>().join(", ");
                let what =
                    format!("`{}` is not one definition: there are {known}", wanted.escape_debug());
                Err(Error::new(Code::InvalidInput, what))
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Checked> {
        self.0.values().flat_map(BTreeMap::values).map(|checked| &**checked)
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }
}

fn shown(name: &str, version: &str) -> String {
    if version.is_empty() { name.to_owned() } else { format!("{name}@{version}") }
}

/// The file, or those of the folder, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| {
        let what = format!("read definitions in {}", path.display());
        let cure = "Check the path given with `--definitions`, and the permissions.";
        Error::new(Code::InvalidConfig, what).with_source(error).with_cure(cure)
    };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let found = entry.map_err(failed)?.path();
        let ending = found.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if ENDINGS.contains(&ending) && found.is_file() {
            all.push(found);
        }
    }
    all.sort();
    if all.is_empty() {
        let what = format!("{} has no file that ends in .yaml, .yml or .json", path.display());
        let cure = "Name a folder that holds definitions, or a file, with `--definitions`.";
        return Err(Error::new(Code::InvalidConfig, what).with_cure(cure));
    }
    Ok(all)
}
