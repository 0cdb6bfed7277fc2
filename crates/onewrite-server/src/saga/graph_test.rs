use onewrite::saga::{Definition, Mapping};

use super::*;

fn step(name: &str) -> Step {
    Step::new(name, Compensation::By(format!("undo_{name}")))
}

fn after(name: &str, before: &[&str]) -> Step {
    let before = before.iter().map(|name| (*name).to_owned()).collect();
    Step { after: Some(before), ..step(name) }
}

/// A step without a compensation, of this kind.
fn final_step(name: &str, kind: Kind, reason: &str) -> Step {
    Step { kind, ..Step::new(name, Compensation::None(reason.into())) }
}

fn saga(steps: Vec<Step>) -> Checked {
    let empty: Definition = serde_json::from_str(r#"{"name":"order","steps":[]}"#).unwrap();
    Definition { steps, ..empty }.check().unwrap()
}

fn order() -> Checked {
    saga(vec![
        step("reserve"),
        final_step("charge", Kind::Pivot, "a charge that failed took nothing"),
        final_step("ship", Kind::Retriable, "it only goes forward"),
    ])
}

/// Every tag is closed by its own, and every `&` begins an entity.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for entity in svg.split('&').skip(1) {
        assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)));
    }
}

#[test]
fn a_sequence_is_drawn_in_order() {
    let checked = order();
    assert_eq!(layers(&checked), [1, 2, 3]);
    let expected = r#"flowchart LR
    accTitle: Saga order
    begin(("start"))
    s0["reserve<br/>by reserve<br/>compensatable"]
    s0 -.-> u0["compensation: undo_reserve"]:::compensation
    s1{{"charge<br/>by charge<br/>pivot"}}
    s2("ship<br/>by ship<br/>retriable")
    finish((("end")))
    begin --> s0
    s0 --> s1
    s1 --> s2
    s2 --> finish
    classDef compensation stroke-dasharray: 4 3
"#;
    assert_eq!(mermaid(&checked), expected);
    let svg = svg(&checked);
    assert_well_formed(&svg);
    for text in
        [">reserve</text>", ">compensation: undo_reserve</text>", ">charge</text>", ">ship</text>"]
    {
        assert_eq!(svg.matches(text).count(), 1, "{text}");
    }
    for kind in ["compensatable", "pivot", "retriable"] {
        assert!(svg.contains(&format!(">{kind}</text>")), "{kind}");
    }
    assert!(svg.contains(">no compensation: it only goes forward</text>"));
    assert_eq!(svg.matches("afterwards only forward").count(), 1);
}

#[test]
fn parallel_steps_share_a_layer() {
    let checked =
        saga(vec![step("a"), after("b", &["a"]), after("c", &["a"]), after("d", &["b", "c"])]);
    assert_eq!(layers(&checked), [1, 2, 2, 3]);
    let layout = Layout::of(&checked);
    assert_eq!(layout.rows, 2);
    assert_eq!(layout.steps[1].left(), layout.steps[2].left());
    assert_eq!(layout.steps[1].top() + ROW, layout.steps[2].top());
    let (graph, svg) = (mermaid(&checked), svg(&checked));
    assert_well_formed(&svg);
    assert!(!svg.contains("afterwards only forward"), "there is no pivot");
    for arrow in ["begin --> s0", "s0 --> s1", "s0 --> s2", "s1 --> s3", "s2 --> s3"] {
        assert!(graph.contains(arrow), "{arrow}");
    }
    for name in ["a", "b", "c", "d"] {
        assert!(svg.contains(&format!(">{name}</text>")), "{name}");
        assert!(svg.contains(&format!(">compensation: undo_{name}</text>")), "{name}");
        assert!(graph.contains(&format!("[\"compensation: undo_{name}\"]")), "{name}");
    }
}

#[test]
fn steps_may_be_declared_in_any_order() {
    let checked = saga(vec![after("a", &["b"]), after("b", &[])]);
    assert_eq!(layers(&checked), [2, 1]);
    assert_well_formed(&svg(&checked));
}

#[test]
fn an_arrow_that_passes_over_a_layer_goes_around_its_boxes() {
    let checked = saga(vec![step("a"), step("b"), after("c", &["a", "b"])]);
    let layout = Layout::of(&checked);
    let way = path(layout.steps[0], layout.steps[2], 0);
    let below = layout.steps[1].top() + BOX_HEIGHT + BACK_GAP + BACK_HEIGHT;
    let lowest = way.split('V').nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(lowest.parse::<usize>().unwrap() > below, "{way}");
    let third = path(layout.steps[0], layout.steps[2], 2);
    assert!(svg(&checked).contains(&format!("<path d=\"{third}\"/>")), "{third}");
}

#[test]
fn what_a_wait_waits_for_is_said() {
    let wait = |name: &str, wait: Wait, step_timeout_ms: Option<u64>| Step {
        wait: Some(wait),
        step_timeout_ms,
        ..Step::new(name, Compensation::None("waiting changes nothing".into()))
    };
    let paid = Wait::Signal { name: "paid".into(), correlation: Mapping::At("/input/id".into()) };
    let checked =
        saga(vec![wait("cool_off", Wait::ForMs(5_000), None), wait("payment", paid, Some(60_000))]);
    let (graph, svg) = (mermaid(&checked), svg(&checked));
    assert!(graph.contains(r#"s0(["cool_off<br/>waits 5 s<br/>compensatable"])"#), "{graph}");
    assert!(svg.contains(">waits 5 s</text>") && svg.contains(">waits for signal paid</text>"));
    let times = [1, 1_500, 90_000, 5_400_000, 7_200_000, 259_200_000].map(time);
    assert_eq!(times, ["1 ms", "1500 ms", "90 s", "90 min", "2 h", "3 d"]);
}

#[test]
fn text_is_escaped() {
    let mut pay = final_step("pay", Kind::Compensatable, "it <&\"\n\u{1}\u{ffff}`");
    pay.action = Some("https://pay.test/?<&\"#".into());
    let mut undone = step("b");
    undone.compensation = Compensation::By("http://b?<&\"#".into());
    let checked = saga(vec![pay, undone]);
    let (graph, svg) = (mermaid(&checked), svg(&checked));
    assert_well_formed(&svg);
    assert!(!svg.contains("<&\"") && !graph.contains("<&\""));
    assert!(svg.contains(">by https://pay.test/?&lt;&amp;&quot;#</text>"), "{svg}");
    assert!(svg.contains(">compensation: http://b?&lt;&amp;&quot;#</text>"), "{svg}");
    assert!(svg.contains(">no compensation: it &lt;&amp;&quot;   `</text>"), "{svg}");
    assert!(graph.contains("by https://pay.test/?#lt;#amp;#quot;#35;<br/>"), "{graph}");
    assert!(graph.contains("compensation: http://b?#lt;#amp;#quot;#35;\"]"), "{graph}");
    assert!(graph.lines().all(|line| [0, 2].contains(&line.matches('"').count())), "{graph}");
}

#[test]
fn long_text_is_cut_and_kept_whole_in_the_title() {
    let reason = "because ".repeat(20) + "so";
    let name = "n".repeat(100);
    let checked = saga(vec![final_step(&name, Kind::Compensatable, &reason)]);
    let svg = svg(&checked);
    assert!(
        svg.contains(&format!(
            "{name}, by {name}, compensatable, no compensation: {reason}</title>"
        ))
    );
    assert!(svg.contains(&format!(">{}…</text>", "n".repeat(FIT - 1))));
    assert!(svg.contains(">no compensation: because because becaus…</text>"), "{svg}");
    assert_eq!(cut("1234", 4), "1234");
    assert_eq!(cut("12345", 4), "123…");
    assert_eq!(cut("漢字漢字", 5), "漢字…");
    assert_eq!(cut("a漢字漢", 5), "a漢…", "half of a letter does not fit");
}

#[test]
fn a_thousand_steps_are_drawn() {
    let names: Vec<String> = (0..1_000).map(|number| format!("step_{number}")).collect();
    let checked = saga(names.iter().map(|name| step(name)).collect());
    assert_eq!(layers(&checked)[999], 1_000);
    let (graph, svg) = (mermaid(&checked), svg(&checked));
    assert_well_formed(&svg);
    assert!(svg.len() < 2_000_000, "{}", svg.len());
    assert_eq!(svg.matches("<g>").count(), 1_000);
    assert_eq!(graph.matches(" --> ").count(), 1_001);
    assert_eq!(graph.matches(" -.-> ").count(), 1_000);
    assert!(names.iter().all(|name| svg.contains(&format!(">{name}</text>"))));
}
