//! What ended long ago leaves the store, and its key is free again.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use onewrite::{
    BoxFuture, Code, Error, Result, Shutdown, Text,
    saga::{Archive, Outcome, SagaOptions, SagaRunner, Sagas, SavedSaga, Signal},
    sqlite,
};

use super::world::{self, World, options, order, order_saga};
use crate::rig::{PATIENCE, sound, until, within};

/// A runner that keeps what has ended for so long, and starts the same order twice: how the second start fares.
async fn again(
    retention: Option<Duration>,
    after: impl AsyncFn(&Sagas, onewrite::saga::SagaId),
) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let options = SagaOptions { retention, ..options(sound()) };
    let runner =
        SagaRunner::new(store, options, Text::from_static("a")).serve(&order_saga(), &world);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let task = tokio::spawn(runner.run(shutdown.clone()));
    let (saga, order) = (order_saga(), order(1));
    let first = sagas.start(&saga, order.key.clone(), &order).await.unwrap();
    after(&sagas, first.id).await;
    let second = sagas.start(&saga, order.key.clone(), &order).await.unwrap();
    if second.is_new {
        let ended = tokio::time::timeout(PATIENCE, sagas.ended(second.id)).await.unwrap();
        // Whether it is told its end or that it is gone again is a matter of moments.
        assert!(matches!(ended, Ok(Outcome::Completed(_)) | Err(_)), "{ended:?}");
        let effects = world.effects().await;
        assert_ne!(first.id, second.id);
        assert_eq!(
            effects[&second.id.to_string()].len(),
            world::STEPS.len(),
            "no step is taken for the first saga's"
        );
    }
    shutdown.begin();
    task.await.unwrap();
    second.is_new
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_long_ago_leaves_and_its_key_is_free() {
    let gone = async |sagas: &Sagas, id| {
        until("the end of the saga's time", async || {
            sagas.show(id).await.is_err_and(|error| error.code() == Code::NotFound)
        })
        .await;
    };
    assert!(again(Some(Duration::ZERO), gone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_retention_it_stays() {
    let stays = async |sagas: &Sagas, id| {
        sagas.ended(id).await.unwrap();
        let gone = async || sagas.show(id).await.is_err();
        assert!(!within(Duration::from_secs(2), gone).await, "retention deletes every second here");
    };
    assert!(!again(None, stays).await);
    assert!(!again(Some(Duration::from_secs(3_600)), stays).await);
}

/// An archive in memory.
#[derive(Default)]
struct Shelf {
    is_broken: AtomicBool,
    asked: AtomicUsize,
    kept: Mutex<Vec<SavedSaga>>,
}

impl Archive for Shelf {
    fn keep(&self, sagas: Vec<SavedSaga>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let asked = self.asked.fetch_add(1, Ordering::Relaxed);
            if self.is_broken.load(Ordering::Relaxed) {
                assert!(asked.is_multiple_of(2), "every second time it panics");
                return Err(Error::new(Code::DiskFull, "keep sagas"));
            }
            self.kept.lock().unwrap().extend(sagas);
            Ok(())
        })
    }
}

/// While the archive fails, whether it says so or panics, what is over stays, and is given to it again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_before_the_archive_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let shelf = Arc::new(Shelf { is_broken: AtomicBool::new(true), ..Shelf::default() });
    let archive: Arc<dyn Archive> = shelf.clone();
    let (retention, archive) = (Some(Duration::ZERO), Some(archive));
    let options = SagaOptions { retention, archive, ..options(sound()) };
    let runner =
        SagaRunner::new(store, options, Text::from_static("a")).serve(&order_saga(), &world);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let task = tokio::spawn(runner.run(shutdown.clone()));
    let order = order(1);
    let id = sagas.start(&order_saga(), order.key.clone(), &order).await.unwrap().id;
    let asked = async || shelf.asked.load(Ordering::Relaxed) > 2;
    until("the archive's third failure", asked).await;
    let saved = sagas.show(id).await.expect("what is not kept stays");
    assert!(saved.ended_at.is_some());
    shelf.is_broken.store(false, Ordering::Relaxed);
    until("the end of the saga's time", async || {
        sagas.show(id).await.is_err_and(|error| error.code() == Code::NotFound)
    })
    .await;
    let kept = shelf.kept.lock().unwrap().clone();
    assert_eq!(kept, [saved], "it is kept as it was, with its journal");
    shutdown.begin();
    task.await.unwrap();
}

/// Also where sagas are kept for ever: what nobody took is deleted once its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn signals_leave_when_their_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(world::store(folder.path(), sound()));
    let options = SagaOptions { retention: None, ..options(sound()) };
    let runner = SagaRunner::new(store.clone(), options, Text::from_static("a"));
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    // More than are deleted at once.
    let send = store.write(|tx| {
        (0..1_200).try_for_each(|number| {
            let signal = Signal::new(format!("s-{number}"), "paid", "o-1").keep(Duration::ZERO);
            sqlite::signal(tx, &signal).map(drop)
        })
    });
    send.await.unwrap();
    sagas.signal(Signal::new("kept", "paid", "o-1")).await.unwrap();
    let task = tokio::spawn(runner.run(shutdown.clone()));
    let left = async || {
        let sql = "SELECT count(*), max(id) FROM onewrite_saga_signal";
        let read = |db: &sqlite::rusqlite::Connection| {
            db.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
                .map_err(onewrite::other)
        };
        store.read_with(read).await.unwrap()
    };
    until("the end of their time", async || left().await.0 == 1).await;
    assert_eq!(left().await.1, "kept");
    shutdown.begin();
    task.await.unwrap();
}
