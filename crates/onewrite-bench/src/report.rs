//! The figures of one run, printed as a table or as one JSON object.

use serde_json::{Map, Value, json};

use crate::{load::Latencies, machine::Machine};

/// How a target compares.
#[derive(Debug, Clone, Copy)]
enum Is {
    AtLeast(f64),
    AtMost(f64),
}

/// A target, with the section and the name of the figure that it is about.
const TARGETS: [(&str, &str, &str, Is); 14] = [
    ("emit_ratio", "emit", "ratio", Is::AtLeast(0.6)),
    ("relay_memory", "drain", "memory_per_s", Is::AtLeast(200_000.0)),
    ("relay_http", "drain", "http_per_s", Is::AtLeast(60_000.0)),
    ("latency_500_p99_ms", "latency", "500_p99_ms", Is::AtMost(5.0)),
    ("nats_publish_ratio", "brokers", "nats_ratio", Is::AtLeast(0.5)),
    ("rabbitmq_publish_ratio", "brokers", "rabbitmq_ratio", Is::AtLeast(0.5)),
    ("redis_publish_ratio", "brokers", "redis_ratio", Is::AtLeast(0.5)),
    ("kafka_publish_ratio", "brokers", "kafka_ratio", Is::AtLeast(0.5)),
    ("sagas_sqlite_256", "sqlite", "completed_256_per_s", Is::AtLeast(15_000.0)),
    ("sagas_sqlite_1_p50_ms", "sqlite", "completed_1_p50_ms", Is::AtMost(1.0)),
    ("sagas_postgres_256", "postgres", "completed_256_per_s", Is::AtLeast(4_700.0)),
    ("sagas_http_64", "sqlite", "http_64_per_s", Is::AtLeast(2_500.0)),
    ("sagas_http_1_p50_ms", "sqlite", "http_1_p50_ms", Is::AtMost(4.0)),
    ("tansu_publish_ratio", "brokers", "tansu_ratio", Is::AtLeast(0.5)),
];

/// The figures, in the order in which they were measured. A figure's name ends in its unit.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    machine: Machine,
    figures: Vec<(&'static str, String, f64)>,
}

impl Report {
    /// A report of the benchmark of this name, without figures.
    #[must_use]
    pub(crate) fn new(bench: &'static str, machine: Machine) -> Self {
        Self { bench, machine, figures: Vec::new() }
    }

    /// Adds a figure, and tells it as progress.
    pub(crate) fn set(&mut self, section: &'static str, name: impl Into<String>, value: f64) {
        let name = name.into();
        eprintln!("  {section:<8} {name:<44} {:>14}", shown(value));
        self.figures.push((section, name, value));
    }

    /// Adds the percentiles of `latencies`, in milliseconds, under names that begin with `prefix`.
    pub(crate) fn set_latencies(
        &mut self,
        section: &'static str,
        prefix: &str,
        latencies: &Latencies,
    ) {
        for (name, value) in latencies.percentiles() {
            self.set(section, format!("{prefix}_{name}_ms"), value);
        }
    }

    fn get(&self, section: &str, name: &str) -> Option<f64> {
        let found = |(own, known, _): &&(&str, String, f64)| *own == section && known == name;
        self.figures.iter().find(found).map(|(_, _, value)| *value)
    }

    /// Prints everything on standard output.
    pub(crate) fn print(&self, json: bool) {
        if json {
            println!("{}", self.to_json());
            return;
        }
        let head = [self.machine.to_json(), self.machine.settings(), Machine::versions()];
        for (name, value) in head.iter().filter_map(Value::as_object).flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            println!("{name:<24} {value}");
        }
        println!();
        for (section, name, value) in &self.figures {
            println!("{section:<8} {name:<44} {:>14}", shown(*value));
        }
        println!();
        for (name, is, value, met) in self.targets() {
            let (sign, target) = match is {
                Is::AtLeast(target) => (">=", target),
                Is::AtMost(target) => ("<=", target),
            };
            let verdict = if met { "met" } else { "MISSED" };
            println!("{name:<24} {:>14} {sign} {:<12} {verdict}", shown(value), shown(target));
        }
    }

    /// The targets whose figures were measured.
    fn targets(&self) -> impl Iterator<Item = (&'static str, Is, f64, bool)> {
        TARGETS.into_iter().filter_map(|(name, section, figure, is)| {
            let value = self.get(section, figure)?;
            let met = match is {
                Is::AtLeast(target) => value >= target,
                Is::AtMost(target) => value <= target,
            };
            Some((name, is, value, met))
        })
    }

    fn to_json(&self) -> Value {
        let mut figures = Map::new();
        for (section, name, value) in &self.figures {
            let section = figures.entry(*section).or_insert_with(|| Value::Object(Map::new()));
            if let Some(section) = section.as_object_mut() {
                section.insert(name.clone(), rounded(*value));
            }
        }
        let targets: Map<String, Value> = self
            .targets()
            .map(|(name, is, value, met)| {
                let (word, target) = match is {
                    Is::AtLeast(target) => ("at_least", target),
                    Is::AtMost(target) => ("at_most", target),
                };
                (name.to_owned(), json!({ word: target, "measured": rounded(value), "met": met }))
            })
            .collect();
        json!({
            "bench": self.bench,
            "machine": self.machine.to_json(),
            "settings": self.machine.settings(),
            "versions": Machine::versions(),
            "figures": figures,
            "targets": targets,
        })
    }
}

/// The middle of `values`; zero without any.
#[must_use]
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

fn shown(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
