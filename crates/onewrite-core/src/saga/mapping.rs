//! Where a step's input comes from: pointers into the saga's data, and no expressions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::Json;

/// How a value is put together: `"/input/customer"`, or an array or an object of such.
///
/// A pointer (RFC 6901) begins with `/input`, the saga's input, or `/steps/NAME`, the output of an
/// earlier step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Mapping {
    /// The value at this place.
    At(String),
    /// An array of such values.
    Array(Vec<Self>),
    /// An object of such values.
    Object(BTreeMap<String, Self>),
}

/// The saga's input as a whole.
pub(super) const INPUT: &str = "/input";
/// What the pointers to outputs begin with.
pub(super) const STEPS: &str = "/steps/";

/// Levels of arrays and objects at most.
const DEPTH_MAX: usize = 16;

/// Pointers in one mapping at most, and bytes of each: each is followed anew.
const POINTERS_MAX: usize = 256;
const POINTER_MAX: usize = 1_024;

/// Parts of a pointer at most.
const PARTS_MAX: usize = 18;

/// Bytes that are looked through for one mapping at most.
const LOOKED_THROUGH_MAX: usize = 64 << 20;

/// Bytes of what is put together at most.
const RESOLVED_MAX: usize = 8 << 20;

impl Mapping {
    /// The saga's input.
    #[must_use]
    pub fn input() -> Self {
        Self::At(INPUT.into())
    }

    /// The output of a step.
    #[must_use]
    pub fn output_of(step: &str) -> Self {
        Self::At(format!("{STEPS}{}", step.replace('~', "~0").replace('/', "~1")))
    }

    /// Every pointer in it, or why it is not one that can be followed.
    pub(super) fn pointers(&self) -> Result<Vec<&str>, String> {
        let mut found = Vec::new();
        self.collect(&mut found, DEPTH_MAX)?;
        if found.len() > POINTERS_MAX {
            return Err(format!("has more than {POINTERS_MAX} pointers"));
        }
        if found.iter().any(|pointer| pointer.len() > POINTER_MAX) {
            return Err(format!("has a pointer of more than {POINTER_MAX} bytes"));
        }
        if found.iter().any(|pointer| pointer.matches('/').count() > PARTS_MAX) {
            return Err(format!("has a pointer of more than {PARTS_MAX} parts"));
        }
        Ok(found)
    }

    fn collect<'a>(&'a self, found: &mut Vec<&'a str>, depth: usize) -> Result<(), String> {
        if depth == 0 {
            return Err(format!("is nested more than {DEPTH_MAX} levels deep"));
        }
        match self {
            Self::At(pointer) => found.push(pointer),
            Self::Array(all) => {
                all.iter().try_for_each(|one| one.collect(found, depth - 1))?;
            }
            Self::Object(all) => {
                all.values().try_for_each(|one| one.collect(found, depth - 1))?;
            }
        }
        Ok(())
    }

    /// The value. `outputs` finds the output of a step by its name.
    ///
    /// # Errors
    /// The pointer that leads nowhere.
    pub(super) fn resolve(
        &self,
        input: &Json,
        outputs: &dyn Fn(&str) -> Option<Json>,
    ) -> Result<Json, String> {
        let mut budget = LOOKED_THROUGH_MAX;
        if let Self::At(pointer) = self {
            return at(pointer, input, outputs, &mut budget);
        }
        let mut text = String::new();
        self.write(&mut text, input, outputs, &mut budget)?;
        Ok(Json::trusted(text))
    }

    /// Puts the text together from the texts of its parts: what is passed on whole is not decoded.
    fn write(
        &self,
        text: &mut String,
        input: &Json,
        outputs: &dyn Fn(&str) -> Option<Json>,
        budget: &mut usize,
    ) -> Result<(), String> {
        match self {
            Self::At(pointer) => text.push_str(at(pointer, input, outputs, budget)?.as_str()),
            Self::Array(all) => {
                text.push('[');
                for (index, one) in all.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    one.write(text, input, outputs, budget)?;
                }
                text.push(']');
            }
            Self::Object(all) => {
                text.push('{');
                for (index, (name, one)) in all.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    text.push_str(&Value::from(name.as_str()).to_string());
                    text.push(':');
                    one.write(text, input, outputs, budget)?;
                }
                text.push('}');
            }
        }
        if text.len() > RESOLVED_MAX {
            return Err(format!("what it is given has more than {RESOLVED_MAX} bytes"));
        }
        Ok(())
    }
}

/// The step that a pointer names and what follows its name; `None` for a pointer into the input.
pub(super) fn step_of(pointer: &str) -> Result<Option<(String, &str)>, String> {
    if let Some(rest) = pointer.strip_prefix(INPUT)
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return Ok(None);
    }
    let Some(rest) = pointer.strip_prefix(STEPS) else {
        return Err(format!("`{pointer}` begins neither with `/input` nor with `/steps/NAME`"));
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    Ok(Some((name.replace("~1", "/").replace("~0", "~"), rest)))
}

fn at(
    pointer: &str,
    input: &Json,
    outputs: &dyn Fn(&str) -> Option<Json>,
    budget: &mut usize,
) -> Result<Json, String> {
    let nowhere = || format!("the pointer `{pointer}` leads nowhere");
    let (value, rest) = match step_of(pointer)? {
        None => (input.clone(), pointer.strip_prefix(INPUT).unwrap_or_default()),
        Some((step, rest)) => (outputs(&step).ok_or_else(nowhere)?, rest),
    };
    if rest.is_empty() {
        return Ok(value);
    }
    match follow(value.as_str(), rest, budget) {
        Some(found) => Ok(Json::trusted(found)),
        None if *budget == 0 => {
            Err(format!("more than {LOOKED_THROUGH_MAX} bytes are looked through for its input"))
        }
        None => Err(nowhere()),
    }
}

/// The text at `pointer` within `text`, as it stands there.
fn follow(text: &str, pointer: &str, budget: &mut usize) -> Option<String> {
    let (mut text, mut rest) = (text, pointer);
    while let Some(behind) = rest.strip_prefix('/') {
        *budget = budget.saturating_sub(text.len());
        if *budget == 0 {
            return None;
        }
        let (token, further) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
        let token = token.replace("~1", "/").replace("~0", "~");
        let inside: &RawValue = if text.trim_start().starts_with('[') {
            let index: usize = token.parse().ok()?;
            serde_json::from_str::<Vec<&RawValue>>(text).ok()?.get(index)?
        } else {
            serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok()?.get(&token)?
        };
        (text, rest) = (inside.get(), further);
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(mapping: &str) -> Result<String, String> {
        let mapping: Mapping = serde_json::from_str(mapping).expect("a mapping");
        let input =
            Json::trusted(r#"{"id":"o-1","items":[{"sku":"a/b"},{"sku":"c"}],"cents":1.10}"#);
        let outputs = |step: &str| (step == "hold").then(|| Json::trusted(r#"{"id": 7}"#));
        mapping.resolve(&input, &outputs).map(|json| json.as_str().to_owned())
    }

    #[test]
    fn values_are_passed_on_as_they_were_given() {
        assert_eq!(resolve(r#""/input/cents""#).unwrap(), "1.10");
        assert_eq!(resolve(r#""/steps/hold""#).unwrap(), r#"{"id": 7}"#);
        assert_eq!(resolve(r#""/input/items/1/sku""#).unwrap(), r#""c""#);
        assert_eq!(
            resolve(r#"["/input/id", {"hold": "/steps/hold/id"}]"#).unwrap(),
            r#"["o-1",{"hold":7}]"#
        );
        assert_eq!(resolve("[]").unwrap(), "[]");
    }

    #[test]
    fn a_pointer_that_leads_nowhere_is_named() {
        for bad in ["/input/nothing", "/steps/pay", "/input/items/2", "/input/id/deeper"] {
            let why = resolve(&format!("{bad:?}")).unwrap_err();
            assert!(why.contains(bad), "{why}");
        }
        assert!(resolve(r#""/inputs""#).is_err());
        assert!(resolve(r#""input""#).is_err());
    }

    #[test]
    fn what_cannot_be_followed_in_reasonable_time_is_refused() {
        let mapping = |json: String| serde_json::from_str::<Mapping>(&json).expect("a mapping");
        let long = mapping(format!("\"/input/{}\"", "a".repeat(1_100)));
        assert!(long.pointers().unwrap_err().contains("1024 bytes"));
        let parts = mapping(format!("\"/input{}\"", "/a".repeat(18)));
        assert!(parts.pointers().unwrap_err().contains("18 parts"));
        let slow = mapping(format!("[{}\"/input/a\"]", "\"/input/a\",".repeat(200)));
        let large = Json::trusted(format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(1 << 20)));
        let why = slow.resolve(&large, &|_| None).unwrap_err();
        assert!(why.contains("looked through"), "{why}");
        let many = mapping(format!("[{}\"/input\"]", "\"/input\",".repeat(256)));
        assert!(many.pointers().unwrap_err().contains("256 pointers"));
        let nine = mapping(format!("[{}\"/input\"]", "\"/input\",".repeat(8)));
        let input = Json::trusted(format!("\"{}\"", "x".repeat(1 << 20)));
        let why = nine.resolve(&input, &|_| None).unwrap_err();
        assert!(why.contains("8388608 bytes"), "{why}");
        // Deeper than any stack: it is walked, not recursed into.
        let deep = Json::trusted(format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)));
        let inner = mapping("\"/input/0/0\"".into()).resolve(&deep, &|_| None).unwrap();
        assert_eq!(inner.as_str().len(), 2 * 99_998 + 1);
    }

    #[test]
    fn names_are_escaped_as_in_pointers() {
        let Mapping::At(pointer) = Mapping::output_of("a/b~c") else { panic!("a pointer") };
        assert_eq!(pointer, "/steps/a~1b~0c");
        assert_eq!(step_of(&pointer).unwrap().unwrap().0, "a/b~c");
    }
}
