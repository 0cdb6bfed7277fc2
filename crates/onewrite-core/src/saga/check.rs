//! The validator: refuses a definition that could not be run to a known end.

use std::collections::{HashMap, HashSet};

use super::{
    Compensation, Definition, Kind, Mapping, RetryPolicy, Step, Wait,
    attribute::attributes,
    check_text,
    flaw::{Flaw, Flaws, shortened},
    mapping::step_of,
};
use crate::{Code, Error, Result, Text};

/// Steps that a saga may have at most.
pub const STEPS_MAX: usize = 1_000;

/// Characters that a name may have at most.
pub(super) const NAME_MAX: usize = 128;

/// What the names of signals begin with that are not users'.
pub const OWN: &str = "onewrite.";

/// Bytes that the URL of a participant may have at most.
const URL_MAX: usize = 2_048;

/// Names a definition by what it says: `place_order@9f86d081884c7d65`.
pub type DefinitionId = Text;

/// A definition that was looked through, with its graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    definition: Definition,
    id: DefinitionId,
    json: Text,
    /// The names of its steps.
    names: Vec<Text>,
    /// For each step, those that must be done before it.
    before: Vec<Vec<usize>>,
    /// For each step, those that wait for it.
    behind: Vec<Vec<usize>>,
}

impl Definition {
    /// What is wrong with it, and for each step those before it.
    fn looked_through(&self) -> (Vec<Flaw>, Vec<Vec<usize>>) {
        let mut flaws = Flaws::default();
        names(self, &mut flaws);
        if !flaws.0.is_empty() {
            // What is too long, or too much, is not looked at any closer.
            return (flaws.0, Vec::new());
        }
        let before = graph(self, &mut flaws);
        if flaws.0.is_empty() {
            let ancestors = ancestors(&before);
            kinds(self, &ancestors, &mut flaws);
            mappings(self, &ancestors, &mut flaws);
        }
        times(self, &mut flaws);
        (flaws.0, before)
    }

    /// Looks it through.
    ///
    /// # Errors
    /// [`Code::InvalidSaga`] with everything that is wrong with it.
    pub fn check(self) -> Result<Checked> {
        let name = shortened(&self.name);
        self.check_all()?.map_err(|flaws| {
            let flaws: Vec<String> = flaws.into_iter().map(|flaw| flaw.what).collect();
            let what = format!("the saga `{name}` cannot be run: {}", flaws.join("; "));
            Error::new(Code::InvalidSaga, what)
        })
    }

    /// Looks it through, and says of each flaw where it is: a hundred at most.
    ///
    /// # Errors
    /// [`Code::InvalidSaga`] when it has no JSON form.
    pub fn check_all(self) -> Result<Result<Checked, Vec<Flaw>>> {
        let (flaws, before) = self.looked_through();
        if !flaws.is_empty() {
            return Ok(Err(flaws));
        }
        let mut behind = vec![Vec::new(); before.len()];
        for (step, all) in before.iter().enumerate() {
            all.iter().for_each(|other| behind[*other].push(step));
        }
        let json = serde_json::to_string(&self).map_err(|error| {
            Error::new(Code::InvalidSaga, "encode the definition").with_source(error)
        })?;
        let id = format!("{}@{:016x}", self.name, fnv(&json)).into();
        let names = self.steps.iter().map(|step| step.name.clone().into()).collect();
        Ok(Ok(Checked { definition: self, id, json: json.into(), names, before, behind }))
    }
}

impl Checked {
    /// What it says.
    #[must_use]
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Its steps, as declared.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.definition.steps
    }

    /// The name of the step of this index; empty where there is none.
    #[must_use]
    pub fn name(&self, step: usize) -> Text {
        self.names.get(step).cloned().unwrap_or_default()
    }

    /// What it is stored under.
    #[must_use]
    pub fn id(&self) -> &DefinitionId {
        &self.id
    }

    /// Its text, as it is stored.
    #[must_use]
    pub fn json(&self) -> &Text {
        &self.json
    }

    /// The index of the step of this name.
    #[must_use]
    pub fn index_of(&self, step: &str) -> Option<usize> {
        self.steps().iter().position(|known| known.name == step)
    }

    /// The steps that must be done before this one.
    #[must_use]
    pub fn before(&self, step: usize) -> &[usize] {
        self.before.get(step).map_or(&[], Vec::as_slice)
    }

    /// Whether any step waits for a time or a signal.
    #[must_use]
    pub fn has_waits(&self) -> bool {
        self.steps().iter().any(|step| step.wait.is_some())
    }

    /// The steps that wait for this one.
    #[must_use]
    pub fn behind(&self, step: usize) -> &[usize] {
        self.behind.get(step).map_or(&[], Vec::as_slice)
    }
}

/// FNV-1a, 64 bits. It only names a text: what is stored under the name is compared with it.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn names(definition: &Definition, flaws: &mut Flaws) {
    name_flaw("its name", &definition.name).into_iter().for_each(|why| flaws.add("/name", why));
    version(definition, flaws);
    attributes(definition, flaws);
    let mut seen = HashSet::new();
    for (index, step) in definition.steps.iter().enumerate() {
        if let Some(why) = name_flaw("the name of step", &step.name) {
            flaws.of_step(index, "name", why);
        }
        if !seen.insert(&step.name) {
            flaws.of_step(index, "name", format!("two steps are named `{}`", step.name));
        }
        let action = step.action.as_deref().map(|name| ("action", "the action", name));
        let compensation = step.compensated_by();
        let compensation = compensation.map(|name| ("compensation/by", "the compensation", name));
        for (field, what, name) in action.into_iter().chain(compensation) {
            if let Some(why) = participant_flaw(what, name, &step.name) {
                flaws.of_step(index, field, why);
            }
        }
    }
    if definition.steps.is_empty() {
        flaws.add("/steps", "it has no steps");
    }
    if definition.steps.len() > STEPS_MAX {
        flaws.add("/steps", format!("it has more than {STEPS_MAX} steps"));
    }
}

/// What is wrong with a name, if anything is.
pub(super) fn name_flaw(what: &str, name: &str) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    let is_good = (1..=NAME_MAX).contains(&name.len()) && name.chars().all(is_plain);
    (!is_good).then(|| {
        let name = shortened(name);
        format!("{what} `{name}` must have 1 to {NAME_MAX} of the characters a-z A-Z 0-9 _ - . :")
    })
}

fn version(definition: &Definition, flaws: &mut Flaws) {
    let Some(version) = &definition.version else { return };
    name_flaw("its version", version).into_iter().for_each(|why| flaws.add("/version", why));
}

/// What is wrong with who carries out a step, if anything is.
fn participant_flaw(what: &str, name: &str, step: &str) -> Option<String> {
    match is_url(name) {
        true if name.len() > URL_MAX || !name.chars().all(|c| c.is_ascii_graphic()) => {
            Some(format!(
                "{what} of `{step}` is a URL, which has at most {URL_MAX} characters of ASCII and no spaces"
            ))
        }
        // It is shown where sagas are.
        true if has_secret(name) => Some(format!(
            "{what} of `{step}` is a URL with a user or password, which would be stored and shown"
        )),
        true => None,
        false => name_flaw(what, name),
    }
}

/// Whether a user or a password stands before the host.
fn has_secret(url: &str) -> bool {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    place.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@'))
}

/// Whether a participant is named by where it is. (No name has a slash.)
#[must_use]
pub fn is_url(participant: &str) -> bool {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    participant
        .split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.chars().all(is_scheme))
}

/// For each step, those before it.
fn graph(definition: &Definition, flaws: &mut Flaws) -> Vec<Vec<usize>> {
    let steps = &definition.steps;
    let places: HashMap<&str, usize> =
        steps.iter().enumerate().map(|(place, step)| (&*step.name, place)).collect();
    let find = |name: &String| places.get(&**name).copied();
    let mut before = vec![Vec::new(); steps.len()];
    for (index, step) in steps.iter().enumerate() {
        match &step.after {
            None => before[index].extend(index.checked_sub(1)),
            Some(names) if names.len() > STEPS_MAX => {
                let what = format!("`{}` comes after more than {STEPS_MAX} steps", step.name);
                flaws.of_step(index, "after", what);
            }
            Some(names) => {
                for (place, name) in names.iter().enumerate() {
                    match find(name) {
                        Some(other) if !before[index].contains(&other) => before[index].push(other),
                        Some(_) => {}
                        None => flaws.of_step(
                            index,
                            &format!("after/{place}"),
                            format!(
                                "`{}` comes after `{}`, which is no step",
                                step.name,
                                shortened(name)
                            ),
                        ),
                    }
                }
            }
        }
    }
    if let Some(step) = in_circle(&before) {
        let what = format!("`{}` comes after itself, in a circle", steps[step].name);
        flaws.of_step(step, "after", what);
    }
    before
}

/// A step that waits for itself, if any does.
fn in_circle(before: &[Vec<usize>]) -> Option<usize> {
    let mut done = vec![false; before.len()];
    loop {
        let free = (0..before.len())
            .find(|step| !done[*step] && before[*step].iter().all(|other| done[*other]));
        match free {
            Some(step) => done[step] = true,
            None => return done.iter().position(|done| !done),
        }
    }
}

/// For each step, all that come before it, however many steps before.
fn ancestors(before: &[Vec<usize>]) -> Vec<HashSet<usize>> {
    let mut all = vec![None::<HashSet<usize>>; before.len()];
    // There are no circles, so every round finds one.
    while let Some(step) = (0..before.len()).find(|step| {
        all[*step].is_none() && before[*step].iter().all(|other| all[*other].is_some())
    }) {
        let mut own: HashSet<usize> = before[step].iter().copied().collect();
        for other in &before[step] {
            own.extend(all[*other].iter().flatten());
        }
        all[step] = Some(own);
    }
    all.into_iter().map(Option::unwrap_or_default).collect()
}

/// What cannot be undone comes after everything that may have to be.
fn kinds(definition: &Definition, ancestors: &[HashSet<usize>], flaws: &mut Flaws) {
    let steps = &definition.steps;
    let of = |kind: Kind| {
        steps.iter().enumerate().filter(move |(_, step)| step.kind == kind).map(|(index, _)| index)
    };
    let mut precedes = |first: usize, second: usize, why: &str| {
        if !ancestors[second].contains(&first) {
            let (before, behind) = (&steps[first].name, &steps[second].name);
            let what = format!("`{before}` must come before `{behind}`, {why}");
            flaws.of_step(second, "after", what);
        }
    };
    for last in of(Kind::Pivot).chain(of(Kind::Retriable)) {
        for first in of(Kind::Compensatable) {
            precedes(first, last, "which cannot be undone should the former fail");
        }
    }
    for pivot in of(Kind::Pivot) {
        for retriable in of(Kind::Retriable) {
            precedes(pivot, retriable, "which cannot be undone should the pivot fail");
        }
    }
    if let Some(second) = of(Kind::Pivot).nth(1) {
        let what = "it has more than one pivot, and only one step can decide";
        flaws.of_step(second, "kind", what);
    }
    for (index, step) in steps.iter().enumerate() {
        let name = &step.name;
        let why = match &step.compensation {
            Compensation::By(_) if step.kind == Kind::Retriable => {
                format!(
                    "`{name}` has a compensation that would never run: it is tried until it succeeds"
                )
            }
            Compensation::None(reason) if reason.trim().is_empty() => {
                format!("`{name}` has no compensation and does not say why")
            }
            _ => continue,
        };
        flaws.of_step(index, "compensation", why);
    }
}

/// Every pointer leads to the input or to a step that is done by then.
fn mappings(definition: &Definition, ancestors: &[HashSet<usize>], flaws: &mut Flaws) {
    let every: HashSet<usize> = (0..definition.steps.len()).collect();
    let steps = || definition.steps.iter().zip(ancestors).enumerate();
    let of_steps = steps().filter_map(|(index, (step, known))| {
        let at = format!("/steps/{index}/input");
        Some((at, format!("`{}`", step.name), step.input.as_ref()?, known))
    });
    let of_signals = steps().filter_map(|(index, (step, known))| {
        let at = format!("/steps/{index}/wait/signal/correlation");
        Some((at, format!("the signal of `{}`", step.name), step.correlation()?, known))
    });
    let output = definition.output.iter();
    let of_output = output.map(|output| ("/output".into(), "its output".into(), output, &every));
    for (at, whose, mapping, known) in of_steps.chain(of_signals).chain(of_output) {
        let pointers = match mapping.pointers() {
            Ok(pointers) => pointers,
            Err(why) => {
                flaws.add(&at, format!("the mapping of {whose} {why}"));
                continue;
            }
        };
        for pointer in pointers {
            let leads = match step_of(pointer) {
                Err(why) => Err(why),
                Ok(None) => Ok(()),
                Ok(Some((step, _))) => {
                    let found = definition.steps.iter().position(|known| known.name == step);
                    match found {
                        Some(index) if known.contains(&index) => Ok(()),
                        Some(_) => Err(format!("`{pointer}` is not done by then")),
                        None => Err(format!("`{pointer}` names no step")),
                    }
                }
            };
            if let Err(why) = leads {
                flaws.add(&at, format!("{whose} takes what is not there: {why}"));
            }
        }
    }
}

fn times(definition: &Definition, flaws: &mut Flaws) {
    if definition.timeout_ms == Some(0) {
        flaws.add("/timeout_ms", "the saga's timeout is zero");
    }
    for (index, step) in definition.steps.iter().enumerate() {
        limits(index, step, flaws);
        waits(index, step, flaws);
        let retry = ("retry", step.retry.as_ref());
        let of_compensation = ("compensation_retry", step.compensation_retry.as_ref());
        for (field, policy) in [retry, of_compensation] {
            if let Some(why) = policy.and_then(nonsense) {
                flaws.of_step(index, field, format!("{field} of `{}` {why}", step.name));
            }
        }
    }
}

fn limits(index: usize, step: &Step, flaws: &mut Flaws) {
    let (name, field) = (&step.name, "step_timeout_ms");
    if step.attempt_timeout_ms == 0 {
        flaws.of_step(index, "attempt_timeout_ms", format!("a timeout of `{name}` is zero"));
    }
    if step.step_timeout_ms == Some(0) {
        flaws.of_step(index, field, format!("a timeout of `{name}` is zero"));
    }
    if step.wait.is_some() {
        return;
    }
    if step.step_timeout_ms.is_some_and(|most| most < step.attempt_timeout_ms) {
        let what = format!("one attempt of `{name}` may take longer than the step");
        flaws.of_step(index, field, what);
    }
    if step.kind != Kind::Compensatable && step.step_timeout_ms.is_some() {
        let what = format!("`{name}` has a time limit and no way out when it is over");
        flaws.of_step(index, field, what);
    }
}

fn waits(index: usize, step: &Step, flaws: &mut Flaws) {
    let name = &step.name;
    let Some(wait) = &step.wait else { return };
    if step.action.is_some() || step.retry.is_some() {
        let what = format!("`{name}` waits, and is to carry something out as well");
        flaws.of_step(index, "wait", what);
    }
    match wait {
        Wait::ForMs(0) => {
            flaws.of_step(index, "wait/for_ms", format!("`{name}` waits for no time at all"));
        }
        Wait::ForMs(_) => {}
        Wait::Signal { name: signal, correlation } => {
            let field = "wait/signal/name";
            if let Err(why) = check_text(signal) {
                let what = format!("`{name}` waits for a signal whose name {why}");
                flaws.of_step(index, field, what);
            }
            if signal.starts_with(OWN) {
                let what = format!(
                    "`{name}` waits for a signal whose name begins with `{OWN}`, as onewrite's own"
                );
                flaws.of_step(index, field, what);
            }
            if !matches!(correlation, Mapping::At(_)) {
                let what = format!("the correlation of `{name}` is not one pointer");
                flaws.of_step(index, "wait/signal/correlation", what);
            }
            if step.step_timeout_ms.is_none() {
                let what = format!(
                    "`{name}` waits for a signal and has no `step_timeout_ms`: it could wait for ever"
                );
                flaws.of_step(index, "wait", what);
            }
        }
    }
}

fn nonsense(policy: &RetryPolicy) -> Option<&'static str> {
    if !policy.factor.is_finite() || policy.factor < 1.0 {
        return Some("has a factor below 1");
    }
    if policy.initial_ms == 0 || policy.initial_ms > policy.cap_ms {
        return Some("has a first pause of zero, or above its cap");
    }
    (policy.attempts_max == Some(0)).then_some("allows no attempt at all")
}

#[cfg(test)]
#[path = "check_test.rs"]
mod check_test;
