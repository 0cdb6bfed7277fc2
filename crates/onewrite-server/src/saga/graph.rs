//! Draws the definition of a saga: as Mermaid, for what renders it, and as an SVG that needs nothing else.

use onewrite::saga::{Checked, Compensation, Kind, Step, Wait};

/// Pixels around the drawing, and above its steps.
const MARGIN: usize = 24;
const HEAD: usize = 70;
/// A step's box, the start and the end, and what lies between two layers.
const BOX: usize = 220;
const BOX_HEIGHT: usize = 66;
const DOT: usize = 16;
const GAP: usize = 80;
/// The box of a compensation, and how far it is below its step.
const BACK: usize = 200;
const BACK_HEIGHT: usize = 26;
const BACK_GAP: usize = 16;
/// Room below each row for the arrows that pass over a layer. They share it, a few pixels apart.
const CHANNEL: usize = 36;
const LANES: usize = 5;
const LANE: usize = 4;
/// From the top of one row to that of the next.
const ROW: usize = BOX_HEIGHT + BACK_GAP + BACK_HEIGHT + CHANNEL;

/// Characters that fit: into a box, into the small text below one, and beside the drawing's name.
const FIT: usize = 28;
const FIT_SMALL: usize = 40;
const FIT_NAME: usize = 40;

const INK: &str = "#1a202c";
const GREY: &str = "#5a6676";
const BACK_INK: &str = "#b02a2a";

/// The definition as a Mermaid flowchart. Renderers refuse more than 500 arrows unless they are told otherwise.
pub(crate) fn mermaid(checked: &Checked) -> String {
    let name = &checked.definition().name;
    let head = format!("flowchart LR\n    accTitle: Saga {name}\n    begin((\"start\"))\n");
    let steps = checked.steps().iter().enumerate().map(|(index, step)| node(index, step));
    let arrows = arrows(checked).into_iter().map(|(from, to)| {
        let from = from.map_or("begin".to_owned(), |step| format!("s{step}"));
        let to = to.map_or("finish".to_owned(), |step| format!("s{step}"));
        format!("    {from} --> {to}\n")
    });
    [
        head,
        steps.collect(),
        "    finish(((\"end\")))\n".to_owned(),
        arrows.collect(),
        "    classDef compensation stroke-dasharray: 4 3\n".to_owned(),
    ]
    .concat()
}

/// A step in Mermaid, with its compensation.
fn node(index: usize, step: &Step) -> String {
    let (open, close) = match (&step.wait, step.kind) {
        (Some(_), _) => ("([", "])"),
        (None, Kind::Compensatable) => ("[", "]"),
        (None, Kind::Pivot) => ("{{", "}}"),
        (None, Kind::Retriable) => ("(", ")"),
    };
    let (name, does, kind) = (label(&step.name), label(&does(step)), word(step.kind));
    let mut text = format!("    s{index}{open}\"{name}<br/>{does}<br/>{kind}\"{close}\n");
    if step.compensated_by().is_some() {
        let back = label(&compensated(step));
        text.push_str(&format!("    s{index} -.-> u{index}[\"{back}\"]:::compensation\n"));
    }
    text
}

/// What leads where: `None` is the start, or the end.
fn arrows(checked: &Checked) -> Vec<(Option<usize>, Option<usize>)> {
    let mut arrows = Vec::new();
    for step in 0..checked.steps().len() {
        let before = checked.before(step);
        if before.is_empty() {
            arrows.push((None, Some(step)));
        }
        arrows.extend(before.iter().map(|other| (Some(*other), Some(step))));
        if checked.behind(step).is_empty() {
            arrows.push((Some(step), None));
        }
    }
    arrows
}

/// For each step, how many are on the longest way to it from the start, itself included.
fn layers(checked: &Checked) -> Vec<usize> {
    let count = checked.steps().len();
    let mut missing: Vec<usize> = (0..count).map(|step| checked.before(step).len()).collect();
    let mut ready: Vec<usize> = (0..count).filter(|step| missing[*step] == 0).collect();
    let mut layers: Vec<usize> = vec![1; count];
    // A step is taken once all before it were: steps may be declared in any order.
    while let Some(step) = ready.pop() {
        for next in checked.behind(step).iter().copied() {
            layers[next] = layers[next].max(layers[step] + 1);
            missing[next] -= 1;
            if missing[next] == 0 {
                ready.push(next);
            }
        }
    }
    layers
}

/// The definition as an SVG, for light and dark surroundings: it brings its own background.
pub(crate) fn svg(checked: &Checked) -> String {
    let layout = Layout::of(checked);
    let steps = checked.steps().iter().zip(&layout.steps).map(|(step, spot)| boxed(step, *spot));
    [
        head(checked, &layout),
        paths(checked, &layout),
        pivot(checked, &layout),
        dot("start", layout.start, INK),
        dot("end", layout.end, "#ffffff"),
        steps.collect(),
        "</svg>\n".to_owned(),
    ]
    .concat()
}

/// Where a step, the start or the end is drawn.
#[derive(Debug, Clone, Copy)]
struct Spot {
    /// Counted from the start, which is alone in the first.
    layer: usize,
    row: usize,
    width: usize,
}

impl Spot {
    fn left(self) -> usize {
        match self.layer.checked_sub(1) {
            None => MARGIN,
            Some(steps) => MARGIN + DOT + GAP + steps * (BOX + GAP),
        }
    }

    fn right(self) -> usize {
        self.left() + self.width
    }

    fn center(self) -> usize {
        self.left() + self.width / 2
    }

    fn top(self) -> usize {
        HEAD + self.row * ROW
    }

    /// The height at which arrows come and go.
    fn middle(self) -> usize {
        self.top() + BOX_HEIGHT / 2
    }
}

/// Where everything is drawn.
struct Layout {
    start: Spot,
    steps: Vec<Spot>,
    end: Spot,
    /// How many are in the fullest layer.
    rows: usize,
}

impl Layout {
    fn of(checked: &Checked) -> Self {
        let layers = layers(checked);
        let last = layers.iter().copied().max().unwrap_or(0) + 1;
        let mut filled: Vec<usize> = vec![0; last];
        let mut steps = Vec::with_capacity(layers.len());
        for layer in layers {
            steps.push(Spot { layer, row: filled[layer], width: BOX });
            filled[layer] += 1;
        }
        let rows = filled.iter().copied().max().unwrap_or(0).max(1);
        // By whole rows only: the room between two rows is free all the way.
        for spot in &mut steps {
            spot.row += (rows - filled[spot.layer]) / 2;
        }
        let row = (rows - 1) / 2;
        let end = |layer: usize| Spot { layer, row, width: DOT };
        Self { start: end(0), steps, end: end(last), rows }
    }
}

/// What comes before the drawing: its size, its words for those who do not see it, its background.
fn head(checked: &Checked, layout: &Layout) -> String {
    let (width, height) = (layout.end.right() + MARGIN, HEAD + layout.rows * ROW);
    let name = format!("Saga {}", checked.definition().name);
    let (whole, short) = (xml(&name), xml(&cut(&name, FIT_NAME)));
    let steps: Vec<String> = checked.steps().iter().map(|step| xml(&described(step))).collect();
    let steps = steps.join("; ");
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="ui-monospace, monospace" fill="{INK}">
<title>{whole}</title>
<desc>Its steps, as declared: {steps}</desc>
<defs><marker id="onewrite-arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 Z" fill="{GREY}"/></marker></defs>
<rect width="{width}" height="{height}" fill="#ffffff"/>
<text x="{MARGIN}" y="30" font-size="14" font-weight="bold">{short}</text>
"##
    )
}

/// The arrows between the steps.
fn paths(checked: &Checked, layout: &Layout) -> String {
    let arrows = arrows(checked).into_iter().enumerate().map(|(number, (from, to))| {
        let from = from.map_or(layout.start, |step| layout.steps[step]);
        let to = to.map_or(layout.end, |step| layout.steps[step]);
        format!("<path d=\"{}\"/>\n", path(from, to, number))
    });
    let arrows: String = arrows.collect();
    format!(
        r##"<g fill="none" stroke="{GREY}" stroke-width="1.5" marker-end="url(#onewrite-arrow)">
{arrows}</g>
"##
    )
}

/// One arrow. `number` keeps those apart that run beside one another.
fn path(from: Spot, to: Spot, number: usize) -> String {
    let (x, y, left, middle) = (from.right(), from.middle(), to.left(), to.middle());
    if to.layer == from.layer + 1 {
        let bend = x + GAP / 2;
        return format!("M{x} {y} C{bend} {y} {bend} {middle} {left} {middle}");
    }
    // Below the row: straight on it would vanish behind the boxes between, as if it led to them.
    let lane = number % LANES * LANE;
    let (down, up) = (x + 12 + lane, left - 20 - lane);
    let below = from.top() + ROW - CHANNEL + 8 + lane;
    format!("M{x} {y} H{down} V{below} H{up} V{middle} H{left}")
}

/// The line behind which the saga only goes forward. The pivot is alone in its layer: all others come
/// before it or behind it.
fn pivot(checked: &Checked, layout: &Layout) -> String {
    let mut steps = checked.steps().iter().zip(&layout.steps);
    let Some((_, spot)) = steps.find(|(step, _)| step.kind == Kind::Pivot) else {
        return String::new();
    };
    let (x, bottom) = (spot.right() + GAP / 2, HEAD + layout.rows * ROW - 8);
    let beside = x - 8;
    format!(
        r##"<path d="M{x} 40 V{bottom}" stroke="{INK}" stroke-dasharray="6 5"/>
<text x="{beside}" y="52" text-anchor="end" font-size="11">pivot: afterwards only forward</text>
"##
    )
}

/// The start or the end.
fn dot(name: &str, spot: Spot, fill: &str) -> String {
    let (x, y, radius) = (spot.center(), spot.middle(), DOT / 2);
    let name = text(x, y + DOT + 4, "font-size=\"10\"", name);
    format!(
        r##"<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{INK}" stroke-width="2"/>
{name}"##
    )
}

/// A step, with what is below it.
fn boxed(step: &Step, spot: Spot) -> String {
    let (x, top) = (spot.center(), spot.top());
    [
        format!("<g>\n<title>{}</title>\n", xml(&described(step))),
        outline(step.kind, spot),
        text(x, top + 21, "font-size=\"12\" font-weight=\"bold\"", &cut(&step.name, FIT)),
        text(x, top + 38, "font-size=\"11\"", &cut(&does(step), FIT)),
        text(x, top + 55, "font-size=\"10\" font-style=\"italic\"", word(step.kind)),
        compensation(step, spot),
        "</g>\n".to_owned(),
    ]
    .concat()
}

/// The box of a step: its shape tells its kind without the colour.
fn outline(kind: Kind, spot: Spot) -> String {
    let (left, right, top, middle) = (spot.left(), spot.right(), spot.top(), spot.middle());
    let bottom = top + BOX_HEIGHT;
    let rounded = |radius: usize, fill: &str, stroke: &str| {
        format!(
            r##"<rect x="{left}" y="{top}" width="{BOX}" height="{BOX_HEIGHT}" rx="{radius}" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>
"##
        )
    };
    match kind {
        Kind::Compensatable => rounded(2, "#e8f1fb", "#2b6cb0"),
        Kind::Retriable => rounded(20, "#e6f6ec", "#2f855a"),
        Kind::Pivot => {
            let (from, to) = (left + 12, right - 12);
            format!(
                r##"<polygon points="{left},{middle} {from},{top} {to},{top} {right},{middle} {to},{bottom} {from},{bottom}" fill="#fff3d6" stroke="#975a16" stroke-width="2.5"/>
"##
            )
        }
    }
}

/// The compensation of a step, or why it has none.
fn compensation(step: &Step, spot: Spot) -> String {
    let (x, from) = (spot.center(), spot.top() + BOX_HEIGHT);
    let says = compensated(step);
    if step.compensated_by().is_none() {
        let style = format!("font-size=\"10\" fill=\"{GREY}\"");
        return text(x, from + BACK_GAP, &style, &cut(&says, FIT_SMALL));
    }
    let (top, left) = (from + BACK_GAP, x - BACK / 2);
    let says = text(x, top + 17, "font-size=\"11\"", &cut(&says, FIT));
    format!(
        r##"<path d="M{x} {from} V{top}" stroke="{BACK_INK}" stroke-dasharray="4 3"/>
<rect x="{left}" y="{top}" width="{BACK}" height="{BACK_HEIGHT}" fill="#fdf0f0" stroke="{BACK_INK}" stroke-dasharray="4 3"/>
{says}"##
    )
}

/// A line of text, centred at `x`.
fn text(x: usize, y: usize, style: &str, says: &str) -> String {
    let says = xml(says);
    format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" {style}>{says}</text>\n")
}

/// All there is to say about a step.
fn described(step: &Step) -> String {
    format!("{}, {}, {}, {}", step.name, does(step), word(step.kind), compensated(step))
}

fn does(step: &Step) -> String {
    match &step.wait {
        None => format!("by {}", step.action()),
        Some(Wait::ForMs(ms)) => format!("waits {}", time(*ms)),
        Some(Wait::Signal { name, .. }) => format!("waits for signal {name}"),
    }
}

fn compensated(step: &Step) -> String {
    match &step.compensation {
        Compensation::By(participant) => format!("compensation: {participant}"),
        Compensation::None(reason) => format!("no compensation: {reason}"),
    }
}

/// A kind, as definitions say it.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Compensatable => "compensatable",
        Kind::Pivot => "pivot",
        Kind::Retriable => "retriable",
    }
}

/// A time in the largest unit that leaves no rest.
fn time(ms: u64) -> String {
    let units: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let (of, unit) = units.into_iter().find(|(of, _)| ms.is_multiple_of(*of)).unwrap_or((1, "ms"));
    format!("{} {unit}", ms / of)
}

/// What of a text fits into so many columns.
fn cut(text: &str, most: usize) -> String {
    // Han, kana and the like are twice as wide as other letters.
    let width = |c: char| if c < '\u{2e80}' { 1_usize } else { 2 };
    if text.chars().map(width).sum::<usize>() <= most {
        return text.to_owned();
    }
    let mut room = most.saturating_sub(1);
    let fits = |c: &char| {
        let rest = room.checked_sub(width(*c));
        room = rest.unwrap_or(0);
        rest.is_some()
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// Text for XML, within an element or an attribute's double quotes.
fn xml(text: &str) -> String {
    escaped(text, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        _ => None,
    })
}

/// Text for the double quotes of a label in Mermaid.
fn label(text: &str) -> String {
    escaped(text, |c| match c {
        '&' => Some("#amp;"),
        '<' => Some("#lt;"),
        '>' => Some("#gt;"),
        '"' => Some("#quot;"),
        '#' => Some("#35;"),
        '`' => Some("#96;"),
        _ => None,
    })
}

fn escaped(text: &str, escape: impl Fn(char) -> Option<&'static str>) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match escape(c) {
            Some(instead) => out.push_str(instead),
            // XML has no place for most of these, and a label is one line.
            None if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[path = "graph_test.rs"]
mod graph_test;
