//! How errors and tables are shown to a person, and what follows when nobody can read them.
//!
//! Data goes to standard output, talk to standard error. Neither ends the program where it fails:
//! whoever has begun something ends it first.

use std::{
    error::Error as _,
    fmt,
    io::{self, IsTerminal as _, Write as _},
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

/// A time to the second: between two rows of a table nobody looks for more, and `--json` has all of it.
pub(crate) fn second(time: &impl ToString) -> String {
    let time = time.to_string();
    time.split_once('.').map_or(time.clone(), |(second, _)| format!("{second}Z"))
}

/// Characters of a key in a table on a terminal.
const SHORT: usize = 28;

/// A key or name of a user's own as a cell of a table. On a terminal a long one is shortened in its middle, for keys often
/// begin alike and end apart; whoever reads a pipe gets it whole.
pub(crate) fn short(text: &str) -> String {
    if is_for_a_person() { shortened(text, SHORT) } else { text.to_owned() }
}

fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let (front, back) = (most / 2, most - most / 2 - 1);
    let (start, end) = (text.chars().take(front), text.chars().skip(count - back));
    start.chain(['…']).chain(end).collect()
}

fn is_for_a_person() -> bool {
    io::stdout().is_terminal()
}

/// A plain table for standard output. On a terminal, where a line that is too long is hard to read, columns are left out
/// that say nothing in any row.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let rows: Vec<_> = rows.into_iter().map(|row| row.map(|cell| plain(&cell))).collect();
    let says_nothing = |column: usize| rows.iter().all(|row| row[column].is_empty());
    let leaves_out = is_for_a_person() && !rows.is_empty();
    let columns: Vec<usize> =
        (0..N).filter(|column| !leaves_out || !says_nothing(*column)).collect();
    laid_out(&head, &rows, &columns)
}

/// These columns of a table.
fn laid_out<const N: usize>(head: &[&str; N], rows: &[[String; N]], columns: &[usize]) -> String {
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
    table.set_header(columns.iter().map(|column| head[*column]));
    for row in rows {
        table.add_row(columns.iter().map(|column| &row[*column]));
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

    #[test]
    fn what_is_long_is_shortened_in_its_middle() {
        assert_eq!(shortened("o-1", 7), "o-1");
        assert_eq!(shortened("order-1", 7), "order-1");
        assert_eq!(shortened("order-2026-17", 7), "ord…-17");
        assert_eq!(shortened("ö".repeat(9).as_str(), 4), "öö…ö");
    }

    #[test]
    fn a_time_in_a_table_has_no_fraction() {
        assert_eq!(second(&"2026-11-29T20:42:03.123456Z"), "2026-11-29T20:42:03Z");
        assert_eq!(second(&""), "");
    }

    /// Of a list of sagas that have ended a line has 120 characters at most then.
    #[test]
    fn columns_can_be_left_out() {
        let ids = "01964b2e-7d1c-7a00-8000-0123456789ab".to_owned();
        let time = || "2026-11-29T20:42:03Z".to_owned();
        let row = [
            ids,
            "order".into(),
            "o-1".into(),
            "0".into(),
            "completed".into(),
            "".into(),
            "".into(),
            time(),
            time(),
        ];
        let head = ["saga", "name", "key", "run", "state", "waits for", "due", "started", "ended"];
        let table = laid_out(&head, &[row], &[0, 1, 2, 3, 4, 7, 8]);
        assert!(!table.contains("due") && table.contains("ended"), "{table}");
        assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    }
}
