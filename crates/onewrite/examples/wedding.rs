//! A wedding: venue, catering, photographer and music are asked side by side, and the couple's word is
//! waited for. When one of them says no, or the couple does not answer, everybody is let go.
//!
//! Run it with `cargo run -p onewrite --example wedding`.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use onewrite::{
    Result, Shutdown,
    saga::{
        Cx, Finished, Journal, Out, Outcome, Plan, Retry, SagaOptions, SagaRunner, SagaType,
        Signal, StepError, StepResult, sqlite,
    },
    sqlite::{Options, SqliteStore, rusqlite::Connection},
};
use serde::{Deserialize, Serialize};

/// What a couple wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Wedding {
    couple: String,
    day: u32,
}

/// The planner's diary.
#[derive(Default)]
struct Planner {
    diary: Mutex<Vec<String>>,
}

impl Planner {
    fn note(&self, line: String) {
        self.diary.lock().unwrap_or_else(|broken| broken.into_inner()).push(line);
    }
}

/// The four, and the day on which each is taken already. The planner keeps their calendars in the database
/// that the sagas are run from, so each booking and its journal row are one commit.
const VENDORS: [&str; 4] = ["venue", "catering", "photographer", "music"];

fn plan_wedding(
    store: &SqliteStore,
    within: Duration,
    mut plan: Plan<Planner, Wedding>,
) -> Finished<Planner, Wedding, String> {
    let wedding = plan.input();
    plan.parallel(|plan| {
        for vendor in VENDORS {
            let book = sqlite::action(store, move |tx, _: Cx<Planner>, wedding: Wedding| {
                book(tx, vendor, &wedding)
            });
            let free = sqlite::compensation(store, move |tx, _: Cx<Planner>, wedding, booked| {
                free(tx, vendor, &wedding, booked)
            });
            plan.step_in(vendor, wedding, book).compensate_in(free);
        }
    });
    let word: Out<String> =
        plan.signal("word", "wedding.word", wedding.at::<String>("/couple"), within);
    let (plan, celebrated) = plan.pivot("celebrate", (wedding, word), celebrate);
    plan.finish(celebrated)
}

fn book(tx: &Connection, vendor: &str, wedding: &Wedding) -> StepResult<u32> {
    let sql =
        "INSERT INTO calendar (vendor, day, couple) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    match tx.execute(sql, (vendor, wedding.day, &wedding.couple))? {
        0 => Err(StepError::abort(format!("the {vendor} is taken on day {}", wedding.day))),
        _ => Ok(wedding.day),
    }
}

/// Without an answer the day was not booked, and cannot be any more: it may be somebody else's.
fn free(
    tx: &Connection,
    vendor: &str,
    wedding: &Wedding,
    booked: Option<u32>,
) -> Result<(), Retry> {
    if let Some(day) = booked {
        let sql = "DELETE FROM calendar WHERE vendor = ?1 AND day = ?2 AND couple = ?3";
        tx.execute(sql, (vendor, day, &wedding.couple))?;
    }
    Ok(())
}

async fn celebrate(cx: Cx<Planner>, (wedding, word): (Wedding, String)) -> StepResult<String> {
    cx.note(format!("{} said `{word}`", wedding.couple));
    Ok(format!("{} marry on day {}", wedding.couple, wedding.day))
}

/// Plans three weddings, and says what became of them and what is in the calendars.
///
/// # Errors
/// What the store says.
pub(crate) async fn run(folder: &Path) -> Result<Vec<String>> {
    let store = SqliteStore::open(Options::new(folder.join("weddings.db")))?;
    let tables =
        "CREATE TABLE calendar (vendor TEXT, day INTEGER, couple TEXT, PRIMARY KEY (vendor, day));
        INSERT INTO calendar VALUES ('music', 2, 'a festival')";
    store.write(move |tx| tx.execute_batch(tables).map_err(onewrite::other)).await?;
    let planner = Arc::new(Planner::default());
    let within = Duration::from_millis(300);
    let saga = SagaType::plan("wedding", |plan| plan_wedding(&store, within, plan))?;
    let journal: Arc<dyn Journal> = Arc::new(store.clone());
    let runner = SagaRunner::new(journal, SagaOptions::default(), "planner").serve(&saga, &planner);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let running = tokio::spawn(runner.run(shutdown.clone()));
    // The second couple's music plays elsewhere, and the third couple never answers.
    for (couple, day, says) in [("ann & bo", 1, true), ("cy & di", 2, true), ("ed & fi", 3, false)]
    {
        if says {
            let word = Signal::new(format!("word of {couple}"), "wedding.word", couple);
            sagas.signal(word.payload("yes")?).await?;
        }
        let wedding = Wedding { couple: couple.into(), day };
        let told = match sagas.run(&saga, couple, &wedding).await? {
            Outcome::Completed(told) => told,
            Outcome::Compensated => format!("{couple} do not marry on day {day}"),
        };
        planner.note(told);
    }
    shutdown.begin();
    let _ = running.await;
    let count = "SELECT couple, count(*) FROM calendar GROUP BY couple ORDER BY couple";
    let booked = store
        .read_with(move |db| {
            let mut statement = db.prepare(count).map_err(onewrite::other)?;
            let rows = statement.query_map([], |row| {
                Ok(format!("{}: {} booked", row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            });
            rows.map_err(onewrite::other)?.collect::<Result<Vec<_>, _>>().map_err(onewrite::other)
        })
        .await?;
    let diary = planner.diary.lock().unwrap_or_else(|broken| broken.into_inner());
    Ok(diary.iter().cloned().chain(booked).collect())
}

#[allow(dead_code, reason = "tests call `run`")]
#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("onewrite-wedding-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for line in run(&folder).await? {
        println!("{line}");
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
