//! What a run came to.

use std::{collections::BTreeMap, time::Duration};

use onewrite::Result;
use onewrite_shop::{Books, Order, audit, saga};
use serde_json::json;

use super::args::{DemoArgs, Flow};
use crate::report;

/// What was done to the processes.
#[derive(Debug, Default)]
pub(crate) struct Blows {
    kills: BTreeMap<&'static str, u64>,
    stalls: u64,
}

impl Blows {
    pub(crate) fn killed(&mut self, point: &'static str) {
        *self.kills.entry(point).or_default() += 1;
    }

    pub(crate) fn stalled(&mut self) {
        self.stalls += 1;
    }
}

/// What was ordered.
pub(crate) struct Orders<'a> {
    /// Those that there were to place.
    pub(crate) all: &'a [Order],
    /// The ids of those that were acknowledged.
    pub(crate) acknowledged: &'a [String],
}

/// The verdict, with the circumstances.
pub(crate) struct Verdict {
    audit: audit::Verdict,
    blows: Blows,
    takeovers: u64,
    placed: usize,
    acknowledged: usize,
    elapsed: Duration,
    p50_ms: f64,
    p99_ms: f64,
}

impl Verdict {
    pub(crate) async fn reach(
        args: &DemoArgs,
        books: &Books,
        orders: &Orders<'_>,
        blows: Blows,
        elapsed: Duration,
    ) -> Result<Self> {
        let audit = match args.flow {
            Flow::Choreography => audit::judge(books, orders.acknowledged).await?,
            Flow::Orchestration => {
                saga::audit::judge(books, orders.all, orders.acknowledged).await?
            }
        };
        let times = books.latencies_us().await?;
        let (p50_ms, p99_ms) = (percentile(&times, 0.5), percentile(&times, 0.99));
        let takeovers = if args.dual_write { 0 } else { books.takeovers().await? };
        Ok(Self {
            audit,
            blows,
            takeovers,
            placed: orders.all.len(),
            acknowledged: orders.acknowledged.len(),
            elapsed,
            p50_ms,
            p99_ms,
        })
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.audit.is_clean()
            && self.audit.orders == self.acknowledged as u64
            && self.acknowledged == self.placed
    }

    /// The verdict in a word or two.
    fn word(&self) -> &'static str {
        match self.audit.is_clean() {
            true if self.is_clean() => "every promise held",
            // Who is told nothing is promised nothing.
            true if self.acknowledged < self.placed => "UNFINISHED",
            _ => "BROKEN",
        }
    }

    pub(crate) fn print(&self, args: &DemoArgs) {
        let kills: u64 = self.blows.kills.values().sum();
        let mode = args.mode();
        let audit = &self.audit;
        let balanced = audit.money_balanced && audit.stock_balanced;
        let mut rows = vec![
            [
                "orders".to_owned(),
                audit.orders.to_string(),
                format!("{} of {} acknowledged", self.acknowledged, self.placed),
            ],
            ["completed".into(), audit.completed.to_string(), "paid, reserved, shipped".into()],
            [
                "compensated".into(),
                audit.compensated.to_string(),
                "no money, no stock or no way there: undone".into(),
            ],
            ["lost".into(), audit.lost.to_string(), "acknowledged, and never ended".into()],
            [
                "duplicated".into(),
                audit.duplicated.to_string(),
                match args.flow {
                    Flow::Choreography => "events with more than one effect".into(),
                    Flow::Orchestration => "steps with more than one effect".into(),
                },
            ],
            [
                "out of order".into(),
                audit.out_of_order.to_string(),
                match args.flow {
                    Flow::Choreography => "effects before an earlier event of their key".into(),
                    Flow::Orchestration => {
                        "repeated effects, and actions behind their compensation".into()
                    }
                },
            ],
            [
                "balanced".into(),
                balanced.to_string(),
                format!("money {}, stock {}", audit.money_balanced, audit.stock_balanced),
            ],
        ];
        if args.flow == Flow::Orchestration {
            let first = audit.faults.first().cloned();
            let what = first.unwrap_or_else(|| "saga and databases say the same".into());
            rows.push(["faults".into(), audit.faults.len().to_string(), what]);
        }
        let mut points = self.blows.kills.iter().map(|(point, times)| format!("{times}× {point}"));
        rows.push(["kills".into(), kills.to_string(), points.next().unwrap_or_default()]);
        rows.extend(points.map(|point| [String::new(), String::new(), point]));
        rows.extend([
            [
                "stalls".into(),
                self.blows.stalls.to_string(),
                "stopped for longer than a lease".into(),
            ],
            [
                "takeovers".into(),
                self.takeovers.to_string(),
                "partitions taken from an owner that was gone".into(),
            ],
            [
                "time".into(),
                format!("{:.1} s", self.elapsed.as_secs_f64()),
                format!("an order took {:.1} ms (p50), {:.1} ms (p99)", self.p50_ms, self.p99_ms),
            ],
        ]);
        let table = report::table([mode, "", self.word()], rows);
        if !args.json {
            report::say!("{table}");
            return;
        }
        report::tell!("{table}");
        report::json(&json!({
            "mode": mode, "seed": args.seed, "orders": audit.orders, "placed": self.placed, "acknowledged": self.acknowledged,
            "completed": audit.completed, "compensated": audit.compensated, "lost": audit.lost,
            "duplicated": audit.duplicated, "out_of_order": audit.out_of_order, "balanced": balanced, "faults": audit.faults,
            "money_balanced": audit.money_balanced, "stock_balanced": audit.stock_balanced,
            "kills": kills, "kills_by_point": self.blows.kills, "stalls": self.blows.stalls, "takeovers": self.takeovers,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "p50_ms": self.p50_ms, "p99_ms": self.p99_ms,
        }));
    }
}

/// What so large a share of the sorted `times` does not exceed, in milliseconds.
fn percentile(times_us: &[i64], share: f64) -> f64 {
    let last = times_us.len().saturating_sub(1);
    let index = ((times_us.len() as f64 * share) as usize).min(last);
    let micros = times_us.get(index).copied().unwrap_or(0);
    // Two digits behind the point are enough to read.
    (micros as f64 / 10.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shop_that_took_fewer_orders_kept_its_promises_and_did_not_finish() {
        let audit = |lost| audit::Verdict {
            orders: 3,
            lost,
            money_balanced: true,
            stock_balanced: true,
            ..audit::Verdict::default()
        };
        let verdict = |placed, lost| Verdict {
            audit: audit(lost),
            blows: Blows::default(),
            takeovers: 0,
            placed,
            acknowledged: 3,
            elapsed: Duration::ZERO,
            p50_ms: 0.0,
            p99_ms: 0.0,
        };
        for (placed, lost, word) in
            [(3, 0, "every promise held"), (5, 0, "UNFINISHED"), (3, 1, "BROKEN"), (5, 1, "BROKEN")]
        {
            let verdict = verdict(placed, lost);
            assert_eq!((verdict.word(), verdict.is_clean()), (word, word.starts_with("every")));
        }
    }
}
