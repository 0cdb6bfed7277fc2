//! `onewrite explain CODE`.

use clap::Args;
use onewrite::{Code, Error, Result};

use crate::report;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The code, for example OW0012; its number is enough.
    code: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

macro_rules! pages {
    ($($code:literal),* $(,)?) => {
        &[$(($code, include_str!(concat!("../../../../book/src/errors/", $code, ".md")))),*]
    };
}

const PAGES: &[(&str, &str)] = pages![
    "OW0001", "OW0002", "OW0003", "OW0004", "OW0005", "OW0006", "OW0007", "OW0008", "OW0009",
    "OW0010", "OW0011", "OW0012", "OW0013", "OW0014", "OW0015", "OW0016", "OW0017", "OW0018",
    "OW0019", "OW0020", "OW0021", "OW0022", "OW0023", "OW0024", "OW0025", "OW0026", "OW0027",
    "OW0028", "OW0029", "OW0030", "OW0031", "OW0032", "OW0033", "OW0034", "OW0035", "OW0036",
    "OW0037", "OW0038", "OW0039",
];

pub(crate) fn run(args: &ExplainArgs) -> Result<()> {
    let wanted = code(&args.code);
    match PAGES.iter().find(|(code, _)| *code == wanted) {
        Some((code, page)) if args.json => {
            let known = Code::ALL.iter().find(|known| known.as_str() == *code);
            report::json(&serde_json::json!({
                "code": code, "page": page.trim_end(), "cure": known.map(|known| known.cure()),
            }));
            Ok(())
        }
        Some((_, page)) => {
            report::say!("{}", page.trim_end());
            Ok(())
        }
        None => Err(Error::new(
            Code::NotFound,
            format!(
                "there is no error code `{}`; codes run from OW0001 to OW{:04}",
                args.code.escape_debug(),
                Code::ALL.len()
            ),
        )
        .with_cure("Give the code as it is printed behind `error`, or its number alone.")),
    }
}

/// The code that `text` means: `OW0012`, `ow12` or `12`.
fn code(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    let number = upper.strip_prefix("OW").unwrap_or(&upper).parse::<u16>();
    number.map_or(upper, |number| format!("OW{number:04}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_page() {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let pages: Vec<&str> = PAGES.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, pages);
    }
}
