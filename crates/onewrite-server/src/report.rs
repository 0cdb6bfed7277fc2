//! How errors and tables are shown to a person.

use std::error::Error as _;

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
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// Prints `value` as one line of JSON on standard output.
pub(crate) fn json(value: &serde_json::Value) {
    println!("{value}");
}
