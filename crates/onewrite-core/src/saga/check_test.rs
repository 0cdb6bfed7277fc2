use super::*;

fn flaw(json: &str) -> String {
    Definition::parse(json).expect_err("a flaw").to_string()
}

fn saga(steps: &str) -> String {
    format!(r#"{{"name":"s","steps":[{steps}]}}"#)
}

const A: &str = r#"{"name":"a","compensation":{"by":"undo_a"}}"#;
const NONE: &str = r#""compensation":{"none":"because"}"#;

#[test]
fn a_plain_list_of_steps_runs_in_sequence() {
    let checked = Definition::parse(&saga(&format!(
        r#"{A},{{"name":"b",{NONE}}},{{"name":"c","kind":"pivot",{NONE}}},{{"name":"d","kind":"retriable",{NONE}}}"#
    )))
    .unwrap();
    assert_eq!(checked.before, [vec![], vec![0], vec![1], vec![2]]);
    assert_eq!(checked.behind, [vec![1], vec![2], vec![3], vec![]]);
    assert_eq!(checked.steps()[0].compensated_by(), Some("undo_a"));
}

#[test]
fn the_id_changes_with_what_is_said_and_with_nothing_else() {
    let one = Definition::parse(&saga(A)).unwrap();
    let again = Definition::parse(one.json()).unwrap();
    assert_eq!(one, again);
    let other = Definition::parse(&saga(&A.replace("undo_a", "undo_b"))).unwrap();
    assert_ne!(one.id(), other.id());
}

#[test]
fn nonsense_is_refused_and_named() {
    let b = |rest: &str| saga(&format!(r#"{A},{{"name":"b",{NONE},{rest}}}"#));
    for (json, words) in [
        (saga(""), "no steps"),
        (saga(&format!("{A},{A}")), "two steps are named `a`"),
        (saga(&A.replace("\"a\"", "\"a/b\"")), "`a/b` must have"),
        (saga(r#"{"name":"a"}"#), "compensation"),
        (saga(r#"{"name":"a","compensation":{"none":" "}}"#), "does not say why"),
        (b(r#""after":["x"]"#), "`x`, which is no step"),
        (
            saga(&format!(r#"{{"name":"a","after":["b"],{NONE}}},{{"name":"b",{NONE}}}"#)),
            "in a circle",
        ),
        (b(r#""input":"/steps/b""#), "is not done by then"),
        (b(r#""after":[],"input":"/steps/a""#), "is not done by then"),
        (b(r#""input":{"x":["/steps/c"]}"#), "names no step"),
        (b(r#""input":"/inputs""#), "begins neither"),
        (b(r#""attempt_timeout_ms":0"#), "is zero"),
        (b(r#""step_timeout_ms":5"#), "longer than the step"),
        (b(r#""retry":{"factor":0.5}"#), "factor below 1"),
        (b(r#""retry":{"initial_ms":0}"#), "pause of zero"),
        (b(r#""retry":{"attempts_max":0}"#), "no attempt"),
        (b(r#""retries":1"#), "unknown field"),
        (b(r#""kind":"pivot","step_timeout_ms":60000"#), "no way out"),
    ] {
        let said = flaw(&json);
        assert!(said.starts_with("OW0032") && said.contains(words), "{json}: {said}");
    }
}

#[test]
fn what_cannot_be_undone_comes_last() {
    let step = |name: &str, kind: &str, after: &str| {
        format!(r#"{{"name":"{name}","kind":"{kind}","after":[{after}],{NONE}}}"#)
    };
    let pivot = step("p", "pivot", "");
    for (steps, words) in [
        (
            format!(
                "{pivot},{}",
                A.replace('{', r#"{"after":["p"],"#).replacen(
                    r#"{"after":["p"],"by""#,
                    r#"{"by""#,
                    1
                )
            ),
            "`a` must come before `p`",
        ),
        (format!("{A},{}", step("r", "retriable", "")), "`a` must come before `r`"),
        (format!("{pivot},{}", step("r", "retriable", "")), "`p` must come before `r`"),
        (format!("{pivot},{}", step("q", "pivot", r#""p""#)), "more than one pivot"),
        (
            r#"{"name":"p","kind":"retriable","compensation":{"by":"undo"}}"#.to_owned(),
            "would never run",
        ),
    ] {
        let said = flaw(&saga(&steps));
        assert!(said.contains(words), "{steps}: {said}");
    }
}

#[test]
fn a_wait_without_an_end_or_beside_an_action_is_refused() {
    let step = |rest: &str| {
        let json = format!(
            r#"{{"name":"s","steps":[{{"name":"a","compensation":{{"none":"nothing"}},{rest}}}]}}"#
        );
        Definition::parse(&json).map(drop).map_err(|error| error.to_string())
    };
    let signal = r#""wait":{"signal":{"name":"paid","correlation":"/input"}}"#;
    assert_eq!(step(&format!(r#"{signal},"step_timeout_ms":5"#)), Ok(()));
    assert_eq!(step(r#""wait":{"for_ms":5}"#), Ok(()));
    for (bad, why) in [
        (signal.to_owned(), "could wait for ever"),
        (r#""wait":{"for_ms":0}"#.to_owned(), "no time at all"),
        (r#""wait":{"for_ms":5},"action":"b""#.to_owned(), "carry something out as well"),
        (
            r#""wait":{"signal":{"name":"","correlation":"/input"}},"step_timeout_ms":5"#
                .to_owned(),
            "name",
        ),
        (
            r#""wait":{"signal":{"name":"a\u0000b","correlation":"/input"}},"step_timeout_ms":5"#
                .to_owned(),
            "NUL",
        ),
        (
            r#""wait":{"signal":{"name":"n","correlation":["/input"]}},"step_timeout_ms":5"#
                .to_owned(),
            "one pointer",
        ),
        (
            r#""wait":{"signal":{"name":"n","correlation":"/steps/b"}},"step_timeout_ms":5"#
                .to_owned(),
            "names no step",
        ),
    ] {
        let said = step(&bad).unwrap_err();
        assert!(said.contains(why), "{bad}: {said}");
    }
}

#[test]
fn every_flaw_says_where_it_is() {
    let step = |rest: &str| format!(r#"{{"name":"b",{NONE},{rest}}}"#);
    for (rest, at) in [
        (r#""after":["a","x"]"#, "/steps/1/after/1"),
        (r#""input":"/steps/b""#, "/steps/1/input"),
        (r#""action":"a b""#, "/steps/1/action"),
        (r#""retry":{"factor":0}"#, "/steps/1/retry"),
        (r#""attempt_timeout_ms":0"#, "/steps/1/attempt_timeout_ms"),
        (r#""step_timeout_ms":1"#, "/steps/1/step_timeout_ms"),
        (r#""wait":{"for_ms":0}"#, "/steps/1/wait/for_ms"),
    ] {
        let json = saga(&format!("{A},{}", step(rest)));
        let definition: Definition = serde_json::from_str(&json).unwrap();
        let flaws = definition.check_all().unwrap().unwrap_err();
        let found: Vec<String> = flaws.into_iter().map(|flaw| flaw.at).collect();
        assert_eq!(found, [at], "{rest}");
        // The pointers lead to something.
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(value.pointer(at).is_some(), "{at}");
    }
}

/// What a stranger sends costs no more than its own size.
#[test]
fn what_is_too_much_is_not_looked_at_closely() {
    let long = "n".repeat(500_000);
    let empty = vec!["\"\""; 100_000].join(",");
    let named = saga(&format!(r#"{{"name":"{long}","after":[{empty}],{NONE}}}"#));
    let many = saga(&vec![A; 14_000].join(","));
    let behind = saga(&format!(r#"{{"name":"b","after":[{empty}],{NONE}}}"#));
    let unknown = saga(&format!(r#"{{"name":"b","after":["{long}"],{NONE}}}"#));
    for json in [named, many, behind, unknown] {
        assert!(flaw(&json).len() < 50_000);
    }
    for bad in ["http:/user:pw@host/x?://", "://x", "a b://x"] {
        assert!(!is_url(bad), "{bad}");
    }
}
