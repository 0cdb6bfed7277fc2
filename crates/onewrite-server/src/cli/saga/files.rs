//! `onewrite saga check|graph|schema`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use onewrite::{Code, Error, Result, saga::Checked};
use serde_json::{Value, json};

use crate::{
    report,
    saga::{
        SCHEMA,
        file::{self, Mistake},
        graph,
    },
};

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Files with one definition each, YAML or JSON; - is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// A file with a definition, YAML or JSON; - is standard input.
    file: PathBuf,
    /// What to draw it as.
    #[arg(long, value_enum, default_value_t = Format::Svg)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A picture.
    Svg,
    /// Text that draws itself where Mermaid is understood.
    Mermaid,
}

/// Says of each file what is wrong; fails when anything is. One that cannot be read keeps no other from being looked
/// at.
pub(crate) fn check(args: &CheckArgs) -> Result<ExitCode> {
    let (mut all_good, mut answers) = (true, Vec::new());
    let mut unreadable = Vec::new();
    for path in &args.files {
        let found = match file::text_of(path, "the definition") {
            Ok(text) => file::read(&text),
            Err(error) => {
                answers.push(answer(path, &Err(vec![Mistake::of_file(&error)])));
                unreadable.push(error);
                continue;
            }
        };
        all_good &= found.is_ok();
        if args.json {
            answers.push(answer(path, &found));
            continue;
        }
        match found {
            Ok(checked) => {
                let (file, count) = (path.display(), checked.steps().len());
                report::say!("{file}: good: {}, {count} steps", checked.id());
            }
            Err(mistakes) => report::say!("{}", lines(path, &mistakes)),
        }
    }
    all_good &= unreadable.is_empty();
    if args.json {
        report::json(&answers.into());
    }
    unreadable.iter().for_each(report::print);
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `--json` says of a file.
fn answer(path: &Path, found: &Result<Checked, Vec<Mistake>>) -> Value {
    let (definition, mistakes) = match found {
        Ok(checked) => (Some(checked.id()), &[] as &[Mistake]),
        Err(mistakes) => (None, mistakes.as_slice()),
    };
    json!({"file": path.display().to_string(), "ok": found.is_ok(), "definition": definition,
        "mistakes": mistakes})
}

/// What is wrong with a file, a line for each, as compilers say it.
fn lines(path: &Path, mistakes: &[Mistake]) -> String {
    let line = |mistake: &Mistake| {
        let Mistake { line, column, what, .. } = mistake;
        format!("{}:{line}:{column}: {}", path.display(), report::plain(what))
    };
    mistakes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The definition in a file.
///
/// # Errors
/// [`Code::InvalidSaga`] with everything that is wrong, and where.
pub(crate) fn definition(path: &Path) -> Result<Checked> {
    file::read(&file::text_of(path, "the definition")?).map_err(|mistakes| {
        Error::new(
            Code::InvalidSaga,
            format!("the definition has mistakes\n{}", lines(path, &mistakes)),
        )
    })
}

pub(crate) fn graph(args: &GraphArgs) -> Result<()> {
    let checked = definition(&args.file)?;
    match args.format {
        Format::Svg => report::say!("{}", graph::svg(&checked)),
        Format::Mermaid => report::say!("{}", graph::mermaid(&checked)),
    }
    Ok(())
}

pub(crate) fn schema() {
    report::say!("{}", SCHEMA.trim_end());
}
