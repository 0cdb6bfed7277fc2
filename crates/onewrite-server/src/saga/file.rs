//! Definitions in files: YAML or JSON, with the line and column of what is wrong.

use std::{io::Read as _, path::Path};

use onewrite::{
    Code, Error, Result,
    saga::{Checked, Definition, Flaw},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    tree::{Node, Place},
    unique,
};

/// Bytes that a file may have at most.
const FILE_MAX: u64 = 1 << 20;

/// Something that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mistake {
    /// The line, from 1.
    pub(crate) line: usize,
    /// The column in characters, from 1.
    pub(crate) column: usize,
    /// The same place as a JSON Pointer into the definition.
    pub(crate) at: String,
    /// What is wrong.
    pub(crate) what: String,
}

impl Mistake {
    fn new(Place { line, column }: Place, at: String, what: String) -> Self {
        Self { line, column, at, what }
    }

    /// That of a file which cannot be read at all.
    pub(crate) fn of_file(error: &Error) -> Self {
        Self::new(Place { line: 1, column: 1 }, String::new(), error.to_string())
    }
}

/// The text of a file that holds `what`; of standard input where it is called `-`.
///
/// # Errors
/// [`Code::InvalidInput`] where it cannot be read, is too large or no text.
pub(crate) fn text_of(path: &Path, what: &str) -> Result<String> {
    let what = || format!("read {what} in {}", path.display());
    let cure = "Check the path and the permissions; a definition or an input is text in UTF-8.";
    let failed = |error| Error::new(Code::InvalidInput, what()).with_source(error).with_cure(cure);
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(FILE_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    }
    if text.len() as u64 > FILE_MAX {
        let what = format!("{}: it has more than {FILE_MAX} bytes", what());
        return Err(Error::new(Code::InvalidInput, what));
    }
    Ok(text)
}

/// Reads a definition and looks it through: everything that is wrong with it, in the order of the text.
pub(crate) fn read(text: &str) -> Result<Checked, Vec<Mistake>> {
    let (tree, value) = parse(text).map_err(|mistake| vec![mistake])?;
    let placed = |Flaw { at, what }: Flaw| {
        let place = tree.as_ref().map_or(Place { line: 1, column: 1 }, |tree| tree.place_of(&at));
        Mistake::new(place, at, what)
    };
    let in_order = |flaws: Vec<Flaw>| {
        let mut mistakes: Vec<Mistake> = flaws.into_iter().map(placed).collect();
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        mistakes
    };
    let definition = Definition::read(&value).map_err(in_order)?;
    let unnamed = |error: Error| vec![placed(Flaw { at: String::new(), what: error.to_string() })];
    definition.check_all().map_err(unnamed)?.map_err(in_order)
}

/// The value of a text, and where its parts stand. What looks like JSON is read as such, for YAML has other
/// escapes; it may stand in places that are not known then.
fn parse(text: &str) -> Result<(Option<Node>, Value), Mistake> {
    let is_json = text.trim_start().starts_with('{');
    let tree = Node::read(text);
    if is_json {
        match unique::value(text) {
            Ok(value) => return Ok((tree.ok(), value)),
            // It may be YAML in braces.
            Err(error) if tree.is_err() => {
                let place = Place { line: error.line().max(1), column: error.column().max(1) };
                let what = error.to_string();
                let what = what.rsplit_once(" at line ").map_or(&*what, |(what, _)| what);
                return Err(Mistake::new(place, String::new(), what.to_owned()));
            }
            Err(_) => {}
        }
    }
    let tree = tree.map_err(|(place, why)| Mistake::new(place, String::new(), why))?;
    let value = tree.to_json();
    Ok((Some(tree), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "name: order
version: '2'
steps:
  - name: charge
    action: bank.charge
    compensation: {by: bank.refund}
    retry: &quick {initial_ms: 5, attempts_max: null}
  - name: ship
    kind: pivot
    retry: *quick
    compensation: {none: its no is final}
";

    fn mistakes(text: &str) -> Vec<String> {
        let all = read(text).unwrap_err();
        let shown = |m: &Mistake| format!("{}:{} {} {}", m.line, m.column, m.at, m.what);
        all.iter().map(shown).collect()
    }

    #[test]
    fn yaml_and_json_are_one_definition() {
        let yaml = read(ORDER).unwrap();
        let json = read(yaml.json()).unwrap();
        assert_eq!(yaml, json);
        assert_eq!(yaml.definition().version.as_deref(), Some("2"));
        assert_eq!(yaml.steps()[1].retry, yaml.steps()[0].retry);
    }

    #[test]
    fn what_is_wrong_stands_somewhere() {
        for (text, said) in [
            (ORDER.replace("kind: pivot", "kinds: pivot"), "9:5 /steps/1/kinds unknown field `kinds`"),
            (ORDER.replace("pivot", "pivots"), "9:5 /steps/1/kind `kind` must be `compensatable`, `pivot` or `retriable`"),
            (ORDER.replace("initial_ms: 5", "initial_ms: x"), "7:20 /steps/0/retry/initial_ms `initial_ms` must be a whole number, and is the text `x`"),
            (ORDER.replace("{by: bank.refund}", "[bank.refund]"), "6:5 /steps/0/compensation `compensation` must be an object"),
            (ORDER.replace("version: '2'", "version: 2"), "2:1 /version `version` must be a text, and is 2: put it in quotation marks"),
            (ORDER.replace("    compensation: {none: its no is final}\n", ""), "8:5 /steps/1 `compensation` is missing"),
            ("name: s\nsteps:\n  - [a]\n".to_owned(), "3:5 /steps/0 `steps/0` must be an object, and is a list"),
            (ORDER.replace("    action: bank.charge\n", "    after: [nobody]\n"), "5:13 /steps/0/after/0 `charge` comes after `nobody`"),
            (ORDER.replace("name: ship", "name: charge"), "8:5 /steps/1/name two steps"),
            (ORDER.replace("name: order", "name: [order"), "2:8  "),
            (ORDER.replace("by: bank.refund", "by: 'http://me:secret@bank/'"), "6:20 /steps/0/compensation/by"),
            ("{\"name\": \"s\",\n \"steps\": [}\n".to_owned(), "2:12  "),
            ("{\"name\": \"s\",\n \"name\": \"t\", \"steps\": []}".to_owned(), "2:12  the key `name` is there twice"),
            ("{\"name\": \"s\",\n \"steps\": [{\"name\": \"\\ud83d\\ude00\", \"compensation\": {\"none\": \"x\"}}]}".to_owned(), "/steps/0/name the name of step"),
            ("just text".to_owned(), "1:1  a definition has a name"),
            ("[\"x\", null, [], null, null]".to_owned(), "1:1  a definition has a name"),
        ] {
            let found = mistakes(&text);
            assert!(found[0].contains(said), "{said}: {found:?}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let text = ORDER.replace("initial_ms: 5", "initial_ms: 0").replace("its no is final", "''");
        let found = mistakes(&text);
        assert!(found.len() >= 2 && found[0].starts_with("7:5"), "{found:?}");
        let text = ORDER.replace("initial_ms: 5", "initial_ms: x").replace("kind:", "kinds:");
        assert_eq!(mistakes(&text).len(), 3, "the anchor is repeated: {:?}", mistakes(&text));
    }
}
