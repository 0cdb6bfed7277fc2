//! Attributes: what sagas can be looked for by, beside their name, key and state.

use super::{
    Checked, Definition, Json, Mapping, flaw::Flaws, mapping::step_of, wait::SIGNAL_TEXT_MAX,
};
use crate::Text;

/// Attributes that a definition may have: each is a row more for every saga.
pub const ATTRIBUTES_MAX: usize = 8;

/// Something that sagas are looked for by: the customer of an order, say.
///
/// Its definition names it with the place of the input that it is found at; a saga whose input has nothing
/// there, or null, is without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name, unique within a definition.
    pub name: Text,
    /// What it says: what every store can index.
    pub value: Text,
}

impl Attribute {
    /// One that says this. Of a long text its first 255 characters count, and a NUL character stands as U+FFFD:
    /// for who stores it as for who looks for it.
    pub fn new(name: impl Into<Text>, value: &str) -> Self {
        let value: String = value
            .chars()
            .take(SIGNAL_TEXT_MAX)
            .map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c })
            .collect();
        Self { name: name.into(), value: value.into() }
    }

    /// One that is looked for: `customer=17`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn asked(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("an attribute is written as NAME=VALUE")?;
        match super::check::name_flaw("the attribute", name) {
            Some(why) => Err(why),
            None => Ok(Self::new(name.to_owned(), value)),
        }
    }

    /// One that says what stands in the input: a text without its quotes, anything else as it is written.
    fn of(name: &str, value: &Json) -> Option<Self> {
        let raw = value.as_str().trim();
        match raw.starts_with('"') {
            true => value.read::<String>("an attribute").ok().map(|text| Self::new(name, &text)),
            false => (raw != "null").then(|| Self::new(name, raw)),
        }
    }
}

impl Checked {
    /// What a saga with this input is looked for by.
    #[must_use]
    pub fn attributes(&self, input: &Json) -> Vec<Attribute> {
        let found = |(name, pointer): (&String, &String)| {
            let value = Mapping::At(pointer.clone()).resolve(input, &|_| None).ok()?;
            Attribute::of(name, &value)
        };
        self.definition().attributes.iter().filter_map(found).collect()
    }
}

/// What is wrong with the attributes of a definition.
pub(super) fn attributes(definition: &Definition, flaws: &mut Flaws) {
    let all = &definition.attributes;
    if all.len() > ATTRIBUTES_MAX {
        flaws.add("/attributes", format!("it has more than {ATTRIBUTES_MAX} attributes"));
    }
    for (name, pointer) in all.iter().take(ATTRIBUTES_MAX) {
        let at = format!("/attributes/{}", name.replace('~', "~0").replace('/', "~1"));
        if let Some(why) = super::check::name_flaw("the attribute", name) {
            flaws.add(&at, why);
        }
        let mapping = Mapping::At(pointer.clone());
        let why = match mapping.pointers().and_then(|_| step_of(pointer)) {
            Ok(None) => continue,
            Ok(Some(_)) => "is an output: it is known when the saga starts, so it stands in the input, at /input/…".to_owned(),
            Err(why) => format!("cannot be looked up: {why}"),
        };
        flaws.add(at, format!("the attribute `{}` {why}", super::flaw::shortened(name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attributes: &str) -> crate::Result<Checked> {
        Definition::parse(&format!(
            r#"{{"name":"order","attributes":{attributes},"steps":[{{"name":"pay","compensation":{{"by":"refund"}}}}]}}"#
        ))
    }

    #[test]
    fn an_attribute_says_what_stands_in_the_input() {
        let checked = parse(r#"{"customer":"/input/customer/id","cents":"/input/cents","none":"/input/none","odd":"/input/odd","vip":"/input/vip"}"#).unwrap();
        let input = Json::trusted(
            r#"{"customer":{"id":"c\u00e9\u0000"},"cents":1.10,"none":null,"vip":true,"odd":{"a": 1}}"#,
        );
        let found = checked.attributes(&input);
        let found: Vec<(&str, &str)> = found.iter().map(|one| (&*one.name, &*one.value)).collect();
        let expected = [
            ("cents", "1.10"),
            ("customer", "cé\u{fffd}"),
            ("odd", r#"{"a": 1}"#),
            ("vip", "true"),
        ];
        assert_eq!(found, expected);
        assert_eq!(checked.attributes(&Json::NULL), []);
        assert_eq!(Attribute::asked("a=b=c").unwrap(), Attribute::new("a", "b=c"));
        assert!(Attribute::asked("a").is_err() && Attribute::asked("a\0=1").is_err());
        // Who asks for a long one finds who has it.
        let long = "é".repeat(300);
        assert_eq!(Attribute::new("a", &long).value.chars().count(), 255);
    }

    #[test]
    fn what_cannot_be_looked_for_is_a_flaw() {
        for (bad, why) in [
            (r#"{"a b":"/input/a"}"#, "the attribute `a b`"),
            (r#"{"a":"/steps/pay/id"}"#, "is an output"),
            (r#"{"a":"customer"}"#, "begins neither"),
            (
                r#"{"a":"/input/0","b":"/input","c":"/input","d":"/input","e":"/input","f":"/input","g":"/input","h":"/input","i":"/input"}"#,
                "more than 8",
            ),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let plain = parse("{}").unwrap();
        assert!(!plain.json().contains("attributes"), "a definition without any keeps its id");
    }
}
