//! Definitions in files: YAML or JSON, with the line and column of what is wrong.

use std::{fmt, io::Read as _, path::Path};

use onewrite::{
    Code, Error, Result,
    saga::{Checked, Definition},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IntoDeserializer as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_path_to_error::{Path as Track, Segment};

use super::tree::{Node, Place};

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
}

/// The text of a file; of standard input where it is called `-`.
///
/// # Errors
/// [`Code::InvalidInput`] where it cannot be read, is too large or no text.
pub(crate) fn text_of(path: &Path) -> Result<String> {
    let what = || format!("read the definition in {}", path.display());
    let failed = |error| Error::new(Code::InvalidInput, what()).with_source(error);
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
    if !value.is_object() {
        let what = "a definition has a name and steps: `name: …`, `steps: …`".to_owned();
        return Err(vec![Mistake::new(Place { line: 1, column: 1 }, String::new(), what)]);
    }
    let placed = |at: String, what: String| {
        let place = tree.as_ref().map_or(Place { line: 1, column: 1 }, |tree| tree.place_of(&at));
        Mistake::new(place, at, what)
    };
    let definition: Definition = serde_path_to_error::deserialize(value.into_deserializer())
        .map_err(|error| {
            let what = error.inner().to_string();
            vec![placed(pointer(error.path(), &what), what)]
        })?;
    let unnamed = |error: Error| vec![placed(String::new(), error.to_string())];
    definition.check_all().map_err(unnamed)?.map_err(|flaws| {
        let mut mistakes: Vec<Mistake> =
            flaws.into_iter().map(|flaw| placed(flaw.at, flaw.what)).collect();
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        mistakes
    })
}

/// The value of a text, and where its parts stand. What looks like JSON is read as such, for YAML has other
/// escapes; it may stand in places that are not known then.
fn parse(text: &str) -> Result<(Option<Node>, Value), Mistake> {
    let is_json = text.trim_start().starts_with('{');
    let tree = Node::read(text);
    if is_json {
        match serde_json::from_str::<Unique>(text) {
            Ok(Unique(value)) => return Ok((tree.ok(), value)),
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

/// A value of JSON none of whose keys is there twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Unique, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = all.next_element()? {
            values.push(value);
        }
        Ok(Unique(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Unique, A::Error> {
        let mut values = Map::new();
        while let Some((key, Unique(value))) = all.next_entry::<String, Unique>()? {
            if values.contains_key(&key) {
                let what = format!("the key `{}` is there twice", key.escape_debug());
                return Err(serde::de::Error::custom(what));
            }
            values.insert(key, value);
        }
        Ok(Unique(values.into()))
    }
}

/// The JSON Pointer of where reading failed; of the field itself where it is not known.
fn pointer(track: &Track, what: &str) -> String {
    let mut pointer = String::new();
    let mut push = |part: &str| {
        pointer.push('/');
        pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
    };
    let mut last = String::new();
    for segment in track.iter() {
        last = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.clone(),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => break,
        };
        push(&last);
    }
    let unknown = what.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    if let Some(field) = unknown.filter(|field| **field != last) {
        push(field);
    }
    pointer
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
            (ORDER.replace("pivot", "pivots"), "9:5 /steps/1/kind unknown variant `pivots`"),
            (ORDER.replace("initial_ms: 5", "initial_ms: x"), "7:20 /steps/0/retry/initial_ms invalid type"),
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
    }
}
