//! A YAML or JSON text as values that know where they stand.
//!
//! YAML 1.2 with its core schema: a plain `yes` is a text. Aliases repeat what they name, within the budget of
//! values; tags, merge keys and several documents are refused, for nothing here needs them.

use std::collections::{BTreeMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};
use serde_json::{Number, Value};

/// Values at most, repeated ones counted each time: aliases of aliases grow without bound.
const VALUES_MAX: usize = 100_000;

/// Bytes of scalars at most, those of repeated ones counted each time.
const BYTES_MAX: usize = 4 << 20;

/// Levels at most.
const DEPTH_MAX: usize = 64;

/// A place in a text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl From<Marker> for Place {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line().max(1), column: marker.col() + 1 }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    place: Place,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Scalar(Value),
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
struct Key {
    text: String,
    place: Place,
}

/// Why a text is no tree, and where.
pub(crate) type Refused = (Place, String);

impl Node {
    /// Reads one document.
    pub(crate) fn read(text: &str) -> Result<Self, Refused> {
        let mut reader = Reader::default();
        for event in Parser::new_from_str(text) {
            let (event, span) =
                event.map_err(|error| (Place::from(*error.marker()), error.info().to_owned()))?;
            reader.take(event, span)?;
        }
        let start = Place { line: 1, column: 1 };
        reader.root.ok_or_else(|| (start, "there is nothing in it".into()))
    }

    /// The value as JSON.
    pub(crate) fn to_json(&self) -> Value {
        match &self.what {
            What::Scalar(value) => value.clone(),
            What::Sequence(all) => all.iter().map(Self::to_json).collect(),
            What::Mapping(all) => {
                let pair = |(key, value): &(Key, Self)| (key.text.clone(), value.to_json());
                Value::Object(all.iter().map(pair).collect())
            }
        }
    }

    /// Where a JSON Pointer leads; as far as it leads at all.
    pub(crate) fn place_of(&self, pointer: &str) -> Place {
        let (mut node, mut place) = (self, self.place);
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let found = match &node.what {
                What::Scalar(_) => None,
                What::Sequence(all) => {
                    part.parse().ok().and_then(|index: usize| all.get(index)).map(|n| (n, n.place))
                }
                What::Mapping(all) => {
                    let found = all.iter().find(|(key, _)| key.text == part);
                    found.map(|(key, value)| (value, key.place))
                }
            };
            let Some(found) = found else { break };
            (node, place) = found;
        }
        place
    }

    /// How many values it is, and how many bytes.
    fn size(&self) -> (usize, usize) {
        let add = |(count, bytes): (usize, usize), (more, longer): (usize, usize)| {
            (count + more, bytes + longer)
        };
        match &self.what {
            What::Scalar(Value::String(text)) => (1, text.len()),
            What::Scalar(_) => (1, 8),
            What::Sequence(all) => all.iter().map(Self::size).fold((1, 0), add),
            What::Mapping(all) => {
                let sizes = all.iter().map(|(key, value)| add((0, key.text.len()), value.size()));
                sizes.fold((1, 0), add)
            }
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.what {
            What::Scalar(_) => 0,
            What::Sequence(all) => all.iter().map(Self::depth).max().unwrap_or(0),
            What::Mapping(all) => all.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
        }
    }
}

/// What is being read: the values that are open, from the outermost.
#[derive(Default)]
struct Reader {
    root: Option<Node>,
    open: Vec<Open>,
    /// Values with an anchor, by its number.
    anchored: BTreeMap<usize, Node>,
    values: usize,
    bytes: usize,
}

struct Open {
    node: Node,
    anchor: usize,
    /// Of a mapping: the key whose value comes next, and those that were there.
    key: Option<Key>,
    keys: HashSet<String>,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Refused> {
        let place = Place::from(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err((place, "it holds a second document: one saga stands in one file".into()))
            }
            Event::DocumentStart(_) => Ok(()),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(place, tag.is_some())?;
                // A key is what is written: `1.10` is not `1.1`.
                let is_key = self.open.last().is_some_and(Open::awaits_key);
                let value = if is_key { text.as_ref().into() } else { scalar(&text, style) };
                let what = What::Scalar(value);
                self.add(Node { place, what }, anchor, style == ScalarStyle::Plain)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(place, tag.is_some())?;
                self.begin(Node { place, what: What::Sequence(Vec::new()) }, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(place, tag.is_some())?;
                self.begin(Node { place, what: What::Mapping(Vec::new()) }, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { node, anchor, .. }) => self.add(node, anchor, false),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let nowhere = || (place, "the alias names what is not complete".to_owned());
                let (count, bytes) = self.anchored.get(&anchor).ok_or_else(nowhere)?.size();
                // Before anything is copied. What is added below counts once more.
                self.spend(place, count, bytes)?;
                let found = self.anchored.get(&anchor).cloned();
                let mut node = found.ok_or_else(nowhere)?;
                node.place = place;
                if self.open.len() + node.depth() > DEPTH_MAX {
                    return Err(too_deep(place));
                }
                self.add(node, 0, false)
            }
        }
    }

    fn begin(&mut self, node: Node, anchor: usize) -> Result<(), Refused> {
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(node.place));
        }
        if self.open.last().is_some_and(Open::awaits_key) {
            return Err((node.place, "a key is a text, and not a list or a mapping".into()));
        }
        self.open.push(Open { node, anchor, key: None, keys: HashSet::new() });
        Ok(())
    }

    /// Counts values and bytes.
    fn spend(&mut self, place: Place, values: usize, bytes: usize) -> Result<(), Refused> {
        self.values = self.values.saturating_add(values);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.values > VALUES_MAX {
            return Err((place, format!("it has more than {VALUES_MAX} values")));
        }
        if self.bytes > BYTES_MAX {
            return Err((place, format!("with its aliases it has more than {BYTES_MAX} bytes")));
        }
        Ok(())
    }

    /// A value is complete.
    fn add(&mut self, node: Node, anchor: usize, plain: bool) -> Result<(), Refused> {
        let place = node.place;
        let bytes = if let What::Scalar(Value::String(text)) = &node.what { text.len() } else { 8 };
        self.spend(place, 1, bytes)?;
        if anchor > 0 {
            self.anchored.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        if let What::Sequence(all) = &mut open.node.what {
            all.push(node);
        } else if let Some(key) = open.key.take() {
            if let What::Mapping(all) = &mut open.node.what {
                all.push((key, node));
            }
        } else {
            open.key = Some(open.key_of(node, plain)?);
        }
        Ok(())
    }
}

impl Open {
    fn awaits_key(&self) -> bool {
        matches!(self.node.what, What::Mapping(_)) && self.key.is_none()
    }

    fn key_of(&mut self, node: Node, plain: bool) -> Result<Key, Refused> {
        let place = node.place;
        let text = match node.what {
            What::Scalar(Value::String(text)) => text,
            // An alias of a number.
            What::Scalar(other) => other.to_string(),
            What::Sequence(_) | What::Mapping(_) => {
                return Err((place, "a key is a text, and not a list or a mapping".into()));
            }
        };
        if plain && text == "<<" {
            return Err((
                place,
                "merge keys (`<<`) are no part of YAML 1.2: repeat the keys".into(),
            ));
        }
        if !self.keys.insert(text.clone()) {
            return Err((place, format!("the key `{}` is there twice", text.escape_debug())));
        }
        Ok(Key { text, place })
    }
}

fn refuse_tag(place: Place, tagged: bool) -> Result<(), Refused> {
    match tagged {
        true => Err((place, "tags (`!…`) are not read: quote what is a text".into())),
        false => Ok(()),
    }
}

fn too_deep(place: Place) -> Refused {
    (place, format!("it is nested more than {DEPTH_MAX} levels deep"))
}

/// What a scalar is by the core schema of YAML 1.2.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => number(text).map_or_else(|| text.into(), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let is_numeric = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    if !text.chars().all(is_numeric) || !text.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    if let Ok(whole) = digits.parse::<u64>() {
        return Some(whole.into());
    }
    if let Ok(whole) = digits.parse::<i64>() {
        return Some(whole.into());
    }
    digits.parse().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json_of(text: &str) -> Value {
        Node::read(text).unwrap().to_json()
    }

    fn refused(text: &str) -> String {
        let (place, why) = Node::read(text).unwrap_err();
        format!("{}:{} {why}", place.line, place.column)
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "a: [1, -2, 0.5, 1e3]\nb:\n  - x\n  - 'true'\n  - yes\n  - true\n  - ~\nc: {d: \"e\\n\"}\n1: 2026-11-29\n";
        let expected = json!({"a": [1, -2, 0.5, 1000.0], "b": ["x", "true", "yes", true, null],
            "c": {"d": "e\n"}, "1": "2026-11-29"});
        assert_eq!(json_of(yaml), expected);
        assert_eq!(json_of(&expected.to_string()), expected);
    }

    #[test]
    fn an_alias_repeats_what_it_names() {
        assert_eq!(
            json_of("1.10: a\nTrue: b\n007: c\n"),
            json!({"1.10": "a", "True": "b", "007": "c"})
        );
        assert_eq!(json_of("a: &x {n: 1}\nb: *x\n"), json!({"a": {"n": 1}, "b": {"n": 1}}));
    }

    #[test]
    fn what_could_be_misread_is_refused_where_it_stands() {
        for (text, why) in [
            ("a: 1\nb: 2\na: 3\n", "3:1 the key `a` is there twice"),
            ("a: !!str 1\n", "tags"),
            ("a: 1\n---\nb: 2\n", "second document"),
            ("x: &x {a: 1}\ny:\n  <<: *x\n", "3:3 merge keys"),
            ("[a]: 1\n", "a key is a text"),
            ("a: *x\n", "1:4"),
            ("a: [1\nb: 2\n", ":"),
            ("", "there is nothing in it"),
        ] {
            let said = refused(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_small_text_cannot_grow_without_bound() {
        let large =
            format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 1_000].join(", "));
        assert!(refused(&large).contains("bytes"));
        let mut bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for level in 1..12 {
            let row = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{row}]\n"));
        }
        assert!(refused(&bomb).contains("values"));
        let deep =
            |levels: usize| refused(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
        assert!(deep(DEPTH_MAX + 1).contains("levels deep"), "{}", deep(DEPTH_MAX + 1));
        // The parser has a limit of its own.
        assert!(deep(100_000).contains("limit"), "{}", deep(100_000));
    }

    #[test]
    fn a_pointer_leads_to_a_place() {
        let node = Node::read("name: s\nsteps:\n  - name: a\n    after: [x, y]\n").unwrap();
        for (pointer, line, column) in [
            ("", 1, 1),
            ("/steps", 2, 1),
            ("/steps/0", 3, 5),
            ("/steps/0/after", 4, 5),
            ("/steps/0/after/1", 4, 16),
            ("/steps/0/missing", 3, 5),
        ] {
            assert_eq!(node.place_of(pointer), Place { line, column }, "{pointer}");
        }
    }
}
