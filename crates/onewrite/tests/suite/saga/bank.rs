//! Accounts in the store that the sagas are run from, and transfers that do not look at any key.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use onewrite::{
    BoxFuture, Result, other,
    saga::{Cx, Journal, Plan, Retry, RetryPolicy, SagaType, StepError, StepOptions, sqlite},
    sqlite::{
        SqliteStore,
        rusqlite::{self, Connection},
    },
};
use serde::{Deserialize, Serialize};

use super::world;

/// Transfers that are made.
pub(crate) const COUNT: usize = 24;

/// What each moves.
pub(crate) const CENTS: i64 = 10;

/// What is to go wrong with a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trouble {
    None,
    /// The pivot says no.
    Refused,
    /// Every function fails once, behind its write.
    FailsOnce,
    /// Every function panics once, behind its write.
    PanicsOnce,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) number: usize,
    pub(crate) trouble: Trouble,
}

pub(crate) fn transfer(number: usize) -> Transfer {
    let troubles = [Trouble::None, Trouble::Refused, Trouble::FailsOnce, Trouble::PanicsOnce];
    Transfer { number, trouble: troubles[number % 4] }
}

/// The same without anything that goes wrong by itself.
pub(crate) fn calm(number: usize) -> Transfer {
    let transfer = transfer(number);
    let is_refused = transfer.trouble == Trouble::Refused;
    Transfer { trouble: if is_refused { Trouble::Refused } else { Trouble::None }, ..transfer }
}

/// Transfers that are not refused.
pub(crate) fn accepted() -> i64 {
    (0..COUNT).filter(|number| transfer(*number).trouble != Trouble::Refused).count() as i64
}

pub(crate) const TABLES: &str =
    "CREATE TABLE account (id VARCHAR(20) PRIMARY KEY, cents BIGINT NOT NULL);
    INSERT INTO account VALUES ('from', 0), ('to', 0), ('letters', 0)";

/// The statement of each step.
pub(crate) const WITHDRAW: &str = "UPDATE account SET cents = cents - 10 WHERE id = 'from'";
pub(crate) const GIVE_BACK: &str = "UPDATE account SET cents = cents + 10 WHERE id = 'from'";
pub(crate) const DEPOSIT: &str = "UPDATE account SET cents = cents + 10 WHERE id = 'to'";
pub(crate) const WRITE_LETTER: &str = "UPDATE account SET cents = cents + 1 WHERE id = 'letters'";
pub(crate) const BALANCES: &str =
    "SELECT (SELECT cents FROM account WHERE id = 'from'), (SELECT cents FROM account WHERE id = 'to'),
        (SELECT cents FROM account WHERE id = 'letters')";

/// What goes wrong, and how often functions ran.
#[derive(Default)]
pub(crate) struct Clerk {
    stumbled: Mutex<std::collections::HashSet<(usize, &'static str)>>,
    pub(crate) runs: AtomicUsize,
}

impl Clerk {
    /// Says whether this function is to fail now, behind its write.
    pub(crate) fn stumbles(&self, transfer: &Transfer, step: &'static str) -> Result<(), Retry> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let first = self.stumbled.lock().unwrap().insert((transfer.number, step));
        match transfer.trouble {
            Trouble::FailsOnce if first => Err(Retry::because("once")),
            Trouble::PanicsOnce if first => panic!("once"),
            _ => Ok(()),
        }
    }
}

pub(crate) type TransferSaga = SagaType<Clerk, Transfer, i64>;

pub(crate) fn patient(plan: &mut Plan<Clerk, Transfer>) {
    let retry = Some(RetryPolicy { initial_ms: 2, cap_ms: 20, ..RetryPolicy::attempts(100) });
    plan.options(StepOptions {
        compensation_retry: retry.clone(),
        retry,
        ..StepOptions::default()
    });
}

fn run(tx: &Connection, sql: &str) -> Result<(), rusqlite::Error> {
    tx.execute(sql, []).map(drop)
}

/// Every step in the transaction that journals it.
pub(crate) fn on_sqlite(store: &SqliteStore) -> TransferSaga {
    let state = |mut plan: Plan<Clerk, Transfer>| {
        patient(&mut plan);
        let input = plan.input();
        let withdrawn = plan
            .step_in(
                "withdraw",
                input,
                sqlite::action(store, |tx, cx: Cx<Clerk>, transfer: Transfer| {
                    run(tx, WITHDRAW)?;
                    cx.stumbles(&transfer, "withdraw")?;
                    Ok(CENTS)
                }),
            )
            .compensate_in(sqlite::compensation(
                store,
                |tx, cx: Cx<Clerk>, transfer: Transfer, taken| {
                    // It ran, so it was taken: what did not take anything is not compensated with an amount.
                    if taken == Some(CENTS) {
                        run(tx, GIVE_BACK)?;
                    }
                    cx.stumbles(&transfer, "give back")
                },
            ));
        let (mut plan, paid) = plan.pivot_in(
            "deposit",
            (input, withdrawn),
            sqlite::action(store, |tx, cx: Cx<Clerk>, (transfer, cents): (Transfer, i64)| {
                run(tx, DEPOSIT)?;
                if transfer.trouble == Trouble::Refused {
                    return Err(StepError::abort("refused"));
                }
                cx.stumbles(&transfer, "deposit")?;
                Ok(cents)
            }),
        );
        let told = plan.step_in(
            "tell",
            (input, paid),
            sqlite::action(store, |tx, cx: Cx<Clerk>, (transfer, cents): (Transfer, i64)| {
                run(tx, WRITE_LETTER)?;
                cx.stumbles(&transfer, "tell")?;
                Ok::<_, Retry>(cents)
            }),
        );
        plan.finish(told)
    };
    SagaType::plan("transfer", state).unwrap()
}

/// The control: the same writes, each committed by itself and journaled afterwards.
pub(crate) fn apart(store: &SqliteStore) -> TransferSaga {
    let writes = |sql: &'static str| {
        let store = store.clone();
        move || -> BoxFuture<'static, Result<()>> {
            let store = store.clone();
            Box::pin(async move {
                store.write(move |tx| tx.execute(sql, []).map(drop).map_err(other)).await
            })
        }
    };
    let (withdraw, give_back, deposit, letter) =
        (writes(WITHDRAW), writes(GIVE_BACK), writes(DEPOSIT), writes(WRITE_LETTER));
    let state = |mut plan: Plan<Clerk, Transfer>| {
        patient(&mut plan);
        let input = plan.input();
        let withdrawn = plan
            .step("withdraw", input, move |cx: Cx<Clerk>, transfer: Transfer| {
                let write = withdraw();
                async move {
                    write.await?;
                    cx.stumbles(&transfer, "withdraw")?;
                    Ok(CENTS)
                }
            })
            .compensate(move |cx: Cx<Clerk>, transfer, taken: Option<i64>| {
                let write = give_back();
                async move {
                    if taken == Some(CENTS) {
                        write.await?;
                    }
                    cx.stumbles(&transfer, "give back")
                }
            });
        let (mut plan, paid) = plan.pivot(
            "deposit",
            (input, withdrawn),
            move |cx: Cx<Clerk>, (transfer, cents): (Transfer, i64)| {
                let write = deposit();
                async move {
                    if transfer.trouble == Trouble::Refused {
                        return Err(StepError::abort("refused"));
                    }
                    write.await?;
                    cx.stumbles(&transfer, "deposit")?;
                    Ok(cents)
                }
            },
        );
        let told = plan.step(
            "tell",
            (input, paid),
            move |cx: Cx<Clerk>, (transfer, cents): (Transfer, i64)| {
                let write = letter();
                async move {
                    write.await?;
                    cx.stumbles(&transfer, "tell")?;
                    Ok::<_, Retry>(cents)
                }
            },
        );
        plan.finish(told)
    };
    SagaType::plan("transfer", state).unwrap()
}

/// A store with accounts.
pub(crate) async fn open(folder: &Path) -> SqliteStore {
    let store = world::store(folder, onewrite::sabotage::Sabotage::default());
    let exists = "SELECT count(*) FROM sqlite_schema WHERE name = 'account'";
    store
        .write(move |tx| {
            let there: i64 = tx.query_row(exists, [], |row| row.get(0)).map_err(other)?;
            if there == 0 { tx.execute_batch(TABLES).map_err(other) } else { Ok(()) }
        })
        .await
        .unwrap();
    store
}

pub(crate) async fn balances(store: &SqliteStore) -> (i64, i64, i64) {
    let read = |db: &Connection| {
        db.query_row(BALANCES, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(other)
    };
    store.read_with(read).await.unwrap()
}

/// What the balances are when every transfer happened once, or not at all.
pub(crate) fn right() -> (i64, i64, i64) {
    (-CENTS * accepted(), CENTS * accepted(), accepted())
}

pub(crate) fn journal(store: &SqliteStore) -> Arc<dyn Journal> {
    Arc::new(store.clone())
}
