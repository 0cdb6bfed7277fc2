//! The form of a definition: which fields there are, and what each of them holds.
//!
//! It is looked at before anything is read: what reads a definition names types of Rust, stops at the first mistake,
//! and takes a list where an object belongs.

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{
    Checked, Definition,
    flaw::{Flaw, Flaws, shortened},
};
use crate::{Code, Error, Result};

/// What a field holds.
#[derive(Clone, Copy)]
enum Form {
    Text,
    /// A whole number from 0 to this.
    Whole(u64),
    Number,
    List(&'static Self),
    /// One of these words.
    Word(&'static [&'static str]),
    /// These fields, and no others.
    Object(&'static [Field]),
    /// One of these fields, and nothing else.
    OneOf(&'static [Field]),
    /// Texts under any names.
    Texts,
    Mapping,
}

#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    form: Form,
    is_required: bool,
    may_be_null: bool,
}

const fn required(name: &'static str, form: Form) -> Field {
    Field { name, form, is_required: true, may_be_null: false }
}

const fn optional(name: &'static str, form: Form) -> Field {
    Field { name, form, is_required: false, may_be_null: false }
}

/// With `null` for what holds unless it is said.
const fn nullable(name: &'static str, form: Form) -> Field {
    Field { name, form, is_required: false, may_be_null: true }
}

const MS: Form = Form::Whole(u64::MAX);

const DEFINITION: Form = Form::Object(&[
    required("name", Form::Text),
    nullable("version", Form::Text),
    optional("attributes", Form::Texts),
    required("steps", Form::List(&STEP)),
    nullable("output", Form::Mapping),
    nullable("timeout_ms", MS),
]);

const STEP: Form = Form::Object(&[
    required("name", Form::Text),
    nullable("action", Form::Text),
    nullable("wait", WAIT),
    optional("kind", Form::Word(&["compensatable", "pivot", "retriable"])),
    required("compensation", COMPENSATION),
    nullable("after", Form::List(&Form::Text)),
    nullable("input", Form::Mapping),
    nullable("retry", RETRY),
    nullable("compensation_retry", RETRY),
    optional("attempt_timeout_ms", MS),
    nullable("step_timeout_ms", MS),
]);

const COMPENSATION: Form = Form::OneOf(&[optional("by", Form::Text), optional("none", Form::Text)]);

const WAIT: Form = Form::OneOf(&[
    optional("for_ms", MS),
    optional(
        "signal",
        Form::Object(&[required("name", Form::Text), required("correlation", Form::Mapping)]),
    ),
]);

const RETRY: Form = Form::Object(&[
    optional("initial_ms", MS),
    optional("factor", Form::Number),
    optional("cap_ms", MS),
    nullable("attempts_max", Form::Whole(u32::MAX as u64)),
    nullable("elapsed_max_ms", MS),
]);

impl Definition {
    /// Reads a definition from JSON and looks it through.
    ///
    /// # Errors
    /// [`Code::InvalidSaga`] with the places and the reasons.
    pub fn parse(json: &str) -> Result<Checked> {
        const WHAT: &str = "read the definition of a saga";
        let no_json = |error| Error::new(Code::InvalidSaga, WHAT).with_source(error);
        let wrong = flaws(&serde_json::from_str(json).map_err(no_json)?);
        if wrong.is_empty() {
            // Not the value that was looked at: keys that are there twice are refused here.
            return serde_json::from_str::<Self>(json).map_err(no_json)?.check();
        }
        let wrong = wrong.into_iter().map(|Flaw { at, what }| format!("{at}: {what}"));
        let what = format!("{WHAT}: {}", wrong.collect::<Vec<_>>().join("; "));
        Err(Error::new(Code::InvalidSaga, what))
    }

    /// Reads a definition from a value.
    ///
    /// # Errors
    /// Everything in it that has another form, and where.
    pub fn read(value: &Value) -> Result<Self, Vec<Flaw>> {
        let wrong = flaws(value);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let unread = |error: serde_json::Error| Flaw { at: String::new(), what: error.to_string() };
        Self::deserialize(value).map_err(|error| vec![unread(error)])
    }
}

/// Everything about the form of a definition that is wrong.
fn flaws(definition: &Value) -> Vec<Flaw> {
    let mut flaws = Flaws::default();
    if definition.is_object() {
        look(&DEFINITION, definition, "", &mut flaws);
    } else {
        flaws.add("", "a definition has a name and steps: `name: …`, `steps: …`");
    }
    flaws.0
}

fn look(form: &Form, value: &Value, at: &str, flaws: &mut Flaws) {
    let fits = match (form, value) {
        (Form::Text, Value::String(_)) | (Form::Number, Value::Number(_)) => true,
        (Form::Whole(most), Value::Number(number)) => number.as_u64().is_some_and(|n| n <= *most),
        (Form::Word(words), Value::String(word)) => words.contains(&&**word),
        (Form::List(form), Value::Array(all)) => {
            look_at_each(form, all, at, flaws);
            true
        }
        (Form::Object(fields), Value::Object(found)) => {
            object(fields, found, at, flaws);
            true
        }
        (Form::OneOf(fields), Value::Object(found)) => {
            if found.len() != 1 {
                flaws.add(at, format!("{} must be {}", named(at), shown(form)));
            }
            object(fields, found, at, flaws);
            true
        }
        (Form::Mapping, Value::String(_)) => true,
        (Form::Mapping, Value::Array(all)) => {
            look_at_each(form, all, at, flaws);
            true
        }
        (Form::Mapping | Form::Texts, Value::Object(all)) => {
            let form = if matches!(form, Form::Texts) { &Form::Text } else { form };
            for (name, value) in all {
                look(form, value, &below(at, name), flaws);
            }
            true
        }
        _ => false,
    };
    if !fits {
        let quote = match (form, value) {
            (Form::Text, Value::Number(_) | Value::Bool(_)) => ": put it in quotation marks",
            _ => "",
        };
        let what = format!("{} must be {}, and is {}{quote}", named(at), shown(form), is(value));
        flaws.add(at, what);
    }
}

fn look_at_each(form: &Form, all: &[Value], at: &str, flaws: &mut Flaws) {
    for (index, value) in all.iter().enumerate() {
        look(form, value, &format!("{at}/{index}"), flaws);
    }
}

fn object(fields: &[Field], found: &Map<String, Value>, at: &str, flaws: &mut Flaws) {
    for field in fields {
        match found.get(field.name) {
            None if field.is_required => {
                let what = format!("`{}` is missing, which is {}", field.name, shown(&field.form));
                flaws.add(at, what);
            }
            None => {}
            Some(Value::Null) if field.may_be_null => {}
            Some(value) => look(&field.form, value, &below(at, field.name), flaws),
        }
    }
    for name in found.keys().filter(|name| fields.iter().all(|field| field.name != **name)) {
        let known = listed(fields.iter().map(|field| field.name), "and");
        let what = format!("unknown field `{}`: there are {known}", shortened(name));
        flaws.add(below(at, name), what);
    }
}

fn below(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The field at this pointer; of what stands in a list, the list's with its number.
fn named(at: &str) -> String {
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = at.rsplit('/');
    let last = parts.next().unwrap_or_default();
    match parts.next() {
        Some(list) if is_number(last) && !list.is_empty() => format!("`{list}/{last}`"),
        _ => format!("`{}`", shortened(last)),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>, last: &str) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((end, all)) if !all.is_empty() => format!("{} {last} {end}", all.join(", ")),
        _ => names.concat(),
    }
}

/// What belongs there.
fn shown(form: &Form) -> String {
    match form {
        Form::Text => "a text".into(),
        Form::Whole(u64::MAX) => "a whole number".into(),
        Form::Whole(most) => format!("a whole number of at most {most}"),
        Form::Number => "a number".into(),
        Form::List(_) => "a list".into(),
        Form::Word(words) => listed(words.iter().copied(), "or"),
        Form::Object(_) => "an object".into(),
        Form::Texts => "an object of texts".into(),
        Form::OneOf(fields) => {
            let names = listed(fields.iter().map(|field| field.name), "or");
            format!("an object with one field, {names}")
        }
        Form::Mapping => "a pointer like `/input/id`, or a list or an object of such".into(),
    }
}

/// What is there instead.
fn is(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
            format!("the text `{}`", shortened(text))
        }
        Value::String(_) => "a text".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::saga::{Compensation, Definition, Kind, Mapping, RetryPolicy, Step, Wait};

    fn said(step: &Value) -> String {
        let all = flaws(&json!({"name": "s", "steps": [step]}));
        all.iter().map(|flaw| format!("{} {}\n", flaw.at, flaw.what)).collect()
    }

    #[test]
    fn what_has_another_form_is_named_in_our_words() {
        let with = |field: &str, value: Value| {
            let mut step = json!({"name": "a", "compensation": {"none": "x"}});
            step[field] = value;
            said(&step)
        };
        for (field, value, words) in [
            (
                "name",
                json!(7),
                "/steps/0/name `name` must be a text, and is 7: put it in quotation marks",
            ),
            (
                "kind",
                json!("pivots"),
                "`kind` must be `compensatable`, `pivot` or `retriable`, and is the text `pivots`",
            ),
            ("kind", json!(null), "and is null"),
            (
                "after",
                json!(["b", {}]),
                "/steps/0/after/1 `after/1` must be a text, and is an object",
            ),
            (
                "retry",
                json!({"attempts_max": "many"}),
                "/steps/0/retry/attempts_max `attempts_max` must be a whole number of at most 4294967295, and is the text `many`",
            ),
            ("retry", json!({"attempts_max": 4_294_967_296_u64}), "4294967295, and is 4294967296"),
            ("retry", json!({"initial_ms": -1}), "must be a whole number, and is -1"),
            ("retry", json!({"initial_ms": 1.5}), "must be a whole number, and is 1.5"),
            ("retry", json!({"factor": []}), "must be a number, and is a list"),
            ("retry", json!([5, 2.0, 9, null]), "`retry` must be an object, and is a list"),
            (
                "compensation",
                json!("bank.refund"),
                "must be an object with one field, `by` or `none`, and is a text",
            ),
            ("compensation", json!({}), "must be an object with one field, `by` or `none`"),
            ("compensation", json!({"by": "b", "none": "x"}), "must be an object with one field"),
            (
                "wait",
                json!({"signal": ["paid", "/input"]}),
                "`signal` must be an object, and is a list",
            ),
            (
                "wait",
                json!({"signal": {"name": "paid"}}),
                "/steps/0/wait/signal `correlation` is missing, which is a pointer",
            ),
            (
                "wait",
                json!({"until": 1}),
                "/steps/0/wait/until unknown field `until`: there are `for_ms` and `signal`",
            ),
            (
                "input",
                json!({"x": ["/input", 1]}),
                "/steps/0/input/x/1 `x/1` must be a pointer like `/input/id`, or a list or an object of such, and is 1",
            ),
            ("a/b", json!(1), "/steps/0/a~1b unknown field `a/b`"),
        ] {
            let all = with(field, value);
            assert!(all.contains(words), "{words}: {all}");
        }
        assert!(
            said(&json!(["a"])).contains("/steps/0 `steps/0` must be an object, and is a list")
        );
        assert!(said(&json!({"name": "a"})).contains("/steps/0 `compensation` is missing"));
    }

    #[test]
    fn everything_is_named_at_once() {
        let all = said(&json!({"name": 1, "kinds": "pivot", "after": "b"}));
        assert_eq!(all.lines().count(), 4, "{all}");
    }

    /// Every field, as it is written out, has the form that is known here.
    #[test]
    fn what_is_written_is_read() {
        let mapping =
            Mapping::Object([("x".into(), Mapping::Array(vec![Mapping::input()]))].into());
        let step = Step {
            action: Some("bank.charge".into()),
            wait: Some(Wait::Signal { name: "paid".into(), correlation: mapping.clone() }),
            kind: Kind::Pivot,
            after: Some(vec!["b".into()]),
            input: Some(mapping.clone()),
            retry: Some(RetryPolicy { elapsed_max_ms: Some(1), ..RetryPolicy::default() }),
            compensation_retry: Some(RetryPolicy::forever()),
            step_timeout_ms: Some(u64::MAX),
            ..Step::new("a", Compensation::By("bank.refund".into()))
        };
        let sleep = Step {
            wait: Some(Wait::ForMs(1)),
            ..Step::new("b", Compensation::None("it only waits".into()))
        };
        let definition = Definition {
            attributes: [("customer".into(), "/input/customer".into())].into(),
            name: "s".into(),
            version: Some("1".into()),
            steps: vec![step, sleep],
            output: Some(mapping),
            timeout_ms: Some(5),
        };
        let value = serde_json::to_value(&definition).unwrap();
        assert_eq!(Definition::read(&value).unwrap(), definition);
    }
}
