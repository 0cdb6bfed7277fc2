//! How errors and tables are shown to a person.

use std::{error::Error as _, fmt, io::Write as _};

use onewrite::Error;

/// Prints what failed, why, and what to do.
pub(crate) fn print(error: &Error) {
    let code = error.code();
    eprintln!("error[{code}]: {}", error.context());
    let mut cause = error.source();
    while let Some(inner) = cause {
        eprintln!("  because: {inner}");
        cause = inner.source();
    }
    eprintln!("  what to do: {}", code.cure());
    eprintln!("  more: onewrite explain {code}");
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
        table.add_row(row);
    }
    table.to_string()
}

/// Prints `value` as one line of JSON on standard output.
pub(crate) fn json(value: &serde_json::Value) {
    out(format_args!("{value}\n"));
}

/// Writes to standard output. A reader that has seen enough (`onewrite … | head`) is no error.
pub(crate) fn out(text: fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_fmt(text).and_then(|()| stdout.flush());
    if let Err(error) = written {
        let code = i32::from(error.kind() != std::io::ErrorKind::BrokenPipe);
        if code != 0 {
            eprintln!("standard output cannot be written: {error}");
        }
        std::process::exit(code);
    }
}

/// `println!` for data, by [`out`].
macro_rules! say {
    ($($part:tt)*) => {
        $crate::report::out(format_args!("{}\n", format_args!($($part)*)))
    };
}
pub(crate) use say;
