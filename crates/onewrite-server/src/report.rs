//! How errors and tables are shown to a person, and what follows when nobody can read them.
//!
//! Data goes to standard output, talk to standard error. Neither ends the program where it fails:
//! whoever has begun something ends it first.

use std::{
    error::Error as _,
    fmt,
    io::{self, Write as _},
    process::ExitCode,
    sync::OnceLock,
};

use onewrite::Error;

/// The first failure of standard output; nothing is written there afterwards.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Prints what failed, why, and what to do.
pub(crate) fn print(error: &Error) {
    let code = error.code();
    tell!("error[{code}]: {}", error.context());
    let mut cause = error.source();
    while let Some(inner) = cause {
        tell!("  because: {inner}");
        cause = inner.source();
    }
    tell!("  what to do: {}", error.cure());
    tell!("  more: onewrite explain {code}");
}

/// `text` of a user's own (types, keys, reasons) on one line: a control character could move the cursor or
/// feign a line.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// A plain table for standard output.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    // Only a line below the head.
    let line = [
        comfy_table::TableComponent::HeaderLines,
        comfy_table::TableComponent::MiddleHeaderIntersections,
    ];
    for component in line {
        table.set_style(component, '─');
    }
    table.set_header(head);
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    table.to_string()
}

/// Prints `value` as one line of JSON on standard output.
pub(crate) fn json(value: &serde_json::Value) {
    out(format_args!("{value}\n"));
}

/// Writes to standard output.
pub(crate) fn out(text: fmt::Arguments<'_>) {
    if FAILED.get().is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        // Nobody else can have set it in between: the lock is held.
        let _ = FAILED.set(error);
    }
}

/// The exit code of a program that would end with `code`. A reader that has seen enough
/// (`onewrite … | head`) is no error; output that could not be written is one.
pub(crate) fn end(code: ExitCode) -> ExitCode {
    match FAILED.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tell!("standard output cannot be written: {error}");
            if code == ExitCode::SUCCESS { ExitCode::FAILURE } else { code }
        }
        _ => code,
    }
}

/// Writes to standard error. Whoever cannot be told keeps nobody from going on.
pub(crate) fn err(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// `println!` for data, by [`out`].
macro_rules! say {
    ($($part:tt)*) => {
        $crate::report::out(format_args!("{}\n", format_args!($($part)*)))
    };
}
pub(crate) use say;

/// `eprintln!` for talk, by [`err`].
macro_rules! tell {
    ($($part:tt)*) => {
        $crate::report::err(format_args!("{}\n", format_args!($($part)*)))
    };
}
pub(crate) use tell;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(plain("a\u{1b}[2J\nb\u{9b}é"), "a\\u{1b}[2J\\nb\\u{9b}é");
        let table = table(["type"], [["a\nb".to_owned()]]);
        assert!(table.contains("a\\nb") && table.lines().count() == 3, "{table}");
    }
}
