//! Disks that cannot be written: read-only, without permission, full.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::{
    serve::{Started, anywhere, ask, serve_on, state},
    support::{
        PATIENCE, PROGRAM, Place, Run, Running, emit, event, eventually, execute, free_address,
        number, plain,
    },
};

/// Runs the test `name` again in a mount namespace of its own, where it may mount what nobody else
/// sees and what goes away with it. Says whether this is that run.
///
/// This needs the right to mount: as root, or where the system gives users namespaces of their own.
fn is_inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::getuid().is_root() { "-m" } else { "-rm" });
    command.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let run = Run::of_ref(command.env(INSIDE, "1"));
    assert!(run.code == Some(0) && run.out.contains("1 passed"), "{}\n{}", run.out, run.err);
    false
}

const INSIDE: &str = "INSIDE_A_NAMESPACE";

/// A small file system of its own.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn of(kib: u32) -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        disk.mount(&format!("size={kib}k"));
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mount(&self, options: &str) {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "none"]).arg(self.folder.path());
        assert_eq!(Run::of(command).code, Some(0), "this test must be allowed to mount");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

#[test]
fn a_read_only_disk_is_named_and_what_it_holds_stays() {
    let place = Place::new();
    if !is_inside("disk::a_read_only_disk_is_named_and_what_it_holds_stays") {
        return;
    }
    let disk = Disk::of(4_096);
    let path = disk.path("shop.db");
    place.run(&["store", "init", "--store", &url(&path)]).ok();
    emit(&path, &[event("Made", "a", 1)]);
    disk.mount("remount,ro");
    for args in [
        &["store", "show", "--store", &url(&path)][..],
        &["store", "fork", "--store", &url(&path)],
        &["store", "init", "--store", &url(&disk.path("new.db"))],
        &["relay", "--sink", "stdout:", "--store", &url(&path)],
        &["sink", "resume", "out", "--store", &url(&path)],
    ] {
        let run = place.run(args);
        run.refused("OW0008", &[".db", "writable", "because"]);
    }
    let kept = disk.path("shop");
    let run = place.run(&["demo", "--orders", "1", "--dir", &kept.display().to_string()]);
    run.refused("OW0008", &["because"]);
    disk.mount("remount,rw");
    assert_eq!(number(&path, "SELECT count(*) FROM onewrite_outbox"), 1);
    let relay = place.start(&["relay", "--sink", "stdout:", "--store", &url(&path)]);
    relay.events(1);
    relay.terminate().ok();
}

/// The program, run by somebody who may not write.
fn unprivileged(place: &Place, args: &[&str]) -> Run {
    if !rustix::process::getuid().is_root() {
        return place.run(args);
    }
    // Where that user finds it.
    let copy = place.path("onewrite");
    if !copy.exists() {
        std::fs::copy(PROGRAM, &copy).unwrap();
    }
    let mut command = Command::new("setpriv");
    plain(&mut command);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy).args(args);
    command.current_dir(place.root());
    Run::of(command)
}

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn missing_permissions_are_named_and_what_is_there_stays() {
    let place = Place::with_store();
    let path = place.path("shop.db");
    emit(&path, &[event("Made", "a", 1)]);
    let show = ["store", "show", "--store", "sqlite:shop.db"];
    // The folder cannot be written, the file can be read.
    allow(place.root(), 0o755);
    let show_as = || unprivileged(&place, &show);
    allow(&path, 0o444);
    show_as().refused("OW0008", &["shop.db", "writable"]);
    // The file may be written, the log beside it may not be made.
    allow(&path, 0o666);
    allow(place.root(), 0o555);
    show_as().refused("OW0008", &["shop.db", "writable"]);
    let init = ["store", "init", "--store", "sqlite:new.db"];
    unprivileged(&place, &init).refused("OW0008", &["new.db", "writable"]);
    // Not even read.
    allow(&path, 0o000);
    show_as().refused("OW0008", &["shop.db"]);
    allow(&path, 0o644);
    allow(place.root(), 0o755);
    place.run(&show).ok();
    assert_eq!(number(&path, "SELECT count(*) FROM onewrite_outbox"), 1);
}

/// The shop's order service on `database`, which takes orders at the address.
fn order_service(place: &Place, database: &Path) -> (Running, SocketAddr) {
    let listen = free_address();
    let service = place.start(&[
        "demo-service",
        "--role",
        "order",
        "--lease-ms",
        "300",
        "--listen",
        &listen.to_string(),
        "--store",
        &url(database),
    ]);
    assert_eq!(service.lines(1), ["ready"]);
    (service, listen)
}

/// Places an order whose row and event take a few kibibytes; the answer's status and body.
fn order(shop: SocketAddr, number: usize) -> (u16, String) {
    use std::io::Read;
    let country = "x".repeat(8_000);
    let body = format!(
        "{{\"id\":\"order-{number}\",\"customer\":\"c\",\"sku\":\"s\",\"quantity\":1,\"cents\":100,\"country\":\"{country}\"}}"
    );
    let mut stream = TcpStream::connect(shop).unwrap();
    write!(
        stream,
        "POST /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
    (status, reply.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_work_goes_on_with_space() {
    if !is_inside("disk::a_full_disk_refuses_what_it_cannot_keep_and_work_goes_on_with_space") {
        return;
    }
    let place = Place::new();
    let disk = Disk::of(2_048);
    let path = disk.path("order.db");
    let ballast = disk.path("ballast");
    let (service, shop) = order_service(&place, &path);
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let mut acknowledged = Vec::new();
    let refused = (0..1_000).find_map(|number| match order(shop, number) {
        (201, _) => {
            acknowledged.push(format!("order-{number}"));
            None
        }
        refused => Some(refused),
    });
    let (status, said) = refused.expect("the disk is never full");
    assert_eq!(status, 503);
    assert!(said.contains("OW0009") && said.contains("full"), "{said}");
    assert!(!acknowledged.is_empty());
    assert_eq!(order(shop, 5_000).0, 503, "it stays so while the disk is full");
    // A store that cannot even be opened says why.
    let run = place.run(&["store", "init", "--store", &url(&disk.path("new.db"))]);
    run.refused("OW0009", &["new.db", "Free space"]);
    std::fs::remove_file(&ballast).unwrap();
    eventually("work goes on", || order(shop, 10_000).0 == 201);
    acknowledged.push("order-10000".to_owned());
    service.terminate().ok();
    let kept = number(
        &path,
        "SELECT count(*) FROM orders JOIN onewrite_outbox o ON o.correlation_id = orders.id",
    );
    assert_eq!(kept, i64::try_from(acknowledged.len()).unwrap(), "each with its event");
    let check = crate::support::texts(&path, "PRAGMA integrity_check");
    assert_eq!(check, ["ok"]);
}

/// A saga that rests for a moment and ends, and takes some kibibytes.
fn rest(number: usize) -> Value {
    let steps = json!([{"name": "rest", "wait": {"for_ms": 200}, "compensation": {"none": "nothing was done"}}]);
    json!({"definition": {"name": "rest", "steps": steps}, "key": format!("r-{number}"), "input": "x".repeat(4_000)})
}

/// Starts one that lasts.
async fn start_lasting(client: &Client, server: &Started, number: usize) -> String {
    let steps = json!([{"name": "rest", "wait": {"for_ms": 3_600_000}, "compensation": {"none": "nothing was done"}}]);
    let body =
        json!({"definition": {"name": "lasting", "steps": steps}, "key": format!("l-{number}")});
    let sagas = format!("{}/v1/sagas", server.url);
    let (status, answer) = ask(client, Method::POST, sagas, Some(&body)).await;
    assert_eq!(status, 201, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

/// A server of sagas on that disk.
fn saga_server(place: &Place, path: &Path) -> Started {
    serve_on(place, &url(path), anywhere(), &["--lease", "1s"])
}

async fn readiness(client: &Client, server: &Started) -> (u16, String) {
    let answer = client.get(format!("{}/readyz", server.url)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Starts sagas until one is refused; the ids of those that were accepted.
async fn start_until_full(client: &Client, server: &Started, first: usize) -> Vec<String> {
    let sagas = format!("{}/v1/sagas", server.url);
    let mut accepted = Vec::new();
    for number in first..first + 10_000 {
        let began = std::time::Instant::now();
        let (status, answer) = ask(client, Method::POST, sagas.clone(), Some(&rest(number))).await;
        if status == 201 {
            accepted.push(answer["id"].as_str().unwrap().to_owned());
            continue;
        }
        assert_eq!((status.as_u16(), &answer["code"]), (503, &json!("OW0009")), "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("full"), "{answer}");
        assert!(began.elapsed() < PATIENCE / 3, "after {:?}", began.elapsed());
        return accepted;
    }
    panic!("the disk is never full")
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_are_refused_while_the_disk_is_full_and_none_that_was_accepted_is_lost() {
    let name = "disk::sagas_are_refused_while_the_disk_is_full_and_none_that_was_accepted_is_lost";
    if !is_inside(name) {
        return;
    }
    let (place, disk, client) = (Place::new(), Disk::of(8_192), Client::new());
    let (path, ballast) = (disk.path("sagas.db"), disk.path("ballast"));
    // As far as there is room.
    let fill = || drop(std::fs::write(&ballast, vec![0; 5 << 20]));
    let mut server = block_in_place(|| saga_server(&place, &path));
    assert_eq!(readiness(&client, &server).await.0, 200, "there is room");
    let client = &client;
    let mut lasting = Vec::new();
    for number in 0..10 {
        lasting.push(start_lasting(client, &server, number).await);
    }
    fill();
    let mut accepted = start_until_full(client, &server, 0).await;
    assert!(!accepted.is_empty());
    // What is smaller than a start may still find room for a moment.
    until("it says that it takes nothing", async || {
        let (status, said) = readiness(client, &server).await;
        status == 503 && said.contains("OW0009") && said.contains("Free space")
    })
    .await;
    let mut refused = false;
    while let Some(id) = lasting.pop().filter(|_| !refused) {
        accepted.extend(start_until_full(client, &server, 1_000 * (lasting.len() + 20)).await);
        let (cancel, why) =
            (format!("{}/v1/sagas/{id}/cancel", server.url), json!({"reason": "a mistake"}));
        let answer = ask(client, Method::POST, cancel, Some(&why));
        let answer = tokio::time::timeout(PATIENCE / 15, answer).await;
        refused = answer.is_ok_and(|(status, answer)| status == 503 && answer["code"] == "OW0009");
    }
    assert!(refused, "a decision waits for room");
    std::fs::remove_file(&ballast).unwrap();
    until("it is ready again", async || readiness(client, &server).await.0 == 200).await;
    // Again, and it ends meanwhile: it does not say that all is well.
    fill();
    accepted.extend(start_until_full(client, &server, 100_000).await);
    let run = block_in_place(|| server.process.terminate()).ok();
    assert!(run.err.contains("OW0009"), "{}", run.err);
    std::fs::remove_file(&ballast).unwrap();
    server = block_in_place(|| saga_server(&place, &path));
    for id in &accepted {
        until("it ends", async || state(client, &server.url, id).await == "completed").await;
    }
    block_in_place(|| server.process.terminate()).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_moved_away_is_noticed_and_nothing_is_written_to_it() {
    let (place, client) = (Place::new(), Client::new());
    let (path, away) = (place.path("sagas.db"), place.path("elsewhere.db"));
    let server = block_in_place(|| saga_server(&place, &path));
    let (server, client) = (&server, &client);
    let post = async |route: &str, body: Value| {
        ask(client, Method::POST, format!("{}/v1/{route}", server.url), Some(&body)).await
    };
    assert_eq!(readiness(client, server).await.0, 200);
    std::fs::rename(&path, &away).unwrap();
    let (status, said) = readiness(client, server).await;
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("OW0002") && said.contains("bring it back"), "{said}");
    let signal = json!({"id": "s", "name": "paid", "correlation": "o-1"});
    for (status, answer) in [post("signals", signal).await, post("sagas", rest(1)).await] {
        assert_eq!((status.as_u16(), &answer["code"]), (503, &json!("OW0002")), "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("was removed or moved"), "{answer}");
    }
    std::fs::rename(&away, &path).unwrap();
    until("it is ready again", async || readiness(client, server).await.0 == 200).await;
    assert_eq!(post("sagas", rest(1)).await.0, 201);
    block_in_place(|| server.process.signal(rustix::process::Signal::TERM));
}

/// A server with ten sagas that ended long ago, and its archive on a disk that is full.
async fn archiving_on_a_full_disk(place: &Place) -> (Started, Disk, PathBuf, Vec<String>) {
    let (disk, client) = (Disk::of(512), Client::new());
    let (folder, path) = (disk.path("old"), place.path("sagas.db"));
    let args = ["--retention", "1m", "--archive", folder.to_str().unwrap()];
    let server = block_in_place(|| serve_on(place, &url(&path), anywhere(), &args));
    // As far as there is room.
    drop(std::fs::write(disk.path("ballast"), vec![0; 1 << 20]));
    let mut accepted = Vec::new();
    for number in 0..10 {
        let mut body = rest(number);
        body["wait_ms"] = json!(30_000);
        let sagas = format!("{}/v1/sagas", server.url);
        let (_, answer) = ask(&client, Method::POST, sagas, Some(&body)).await;
        assert_eq!(answer["state"], "completed", "{answer}");
        accepted.push(answer["id"].as_str().unwrap().to_owned());
    }
    block_in_place(|| execute(&path, "UPDATE onewrite_saga SET ended_at = 0"));
    (server, disk, path, accepted)
}

/// What is in the archive, as far as it is whole.
fn archived(disk: &Disk) -> Vec<Value> {
    let files = std::fs::read_dir(disk.path("old")).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let all = texts.collect::<Vec<_>>().concat();
    all.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_the_disk_of_the_archive_is_full() {
    if !is_inside("disk::nothing_is_deleted_while_the_disk_of_the_archive_is_full") {
        return;
    }
    let place = Place::new();
    let (server, disk, path, accepted) = archiving_on_a_full_disk(&place).await;
    let kept = || number(&path, "SELECT count(*) FROM onewrite_saga");
    block_in_place(|| {
        let said = server.process.says("keep ended sagas in");
        assert!(said.contains("No space left"), "{said}");
        assert_eq!(kept(), 10, "they are not in the archive");
        std::fs::remove_file(disk.path("ballast")).unwrap();
        eventually("they are deleted", || kept() == 0);
        server.process.terminate().ok();
    });
    let archived = archived(&disk);
    for id in accepted {
        assert!(archived.iter().any(|saga| saga["id"] == *id), "{id} is lost");
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(std::time::Instant::now() < until, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[cfg(feature = "sabotage")]
mod sabotage {
    use onewrite::sabotage::Defect;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_forgets_what_its_disk_said_is_noticed() {
        let name = "disk::sabotage::a_server_that_forgets_what_its_disk_said_is_noticed";
        if !is_inside(name) {
            return;
        }
        let (place, disk) = (Place::with_defect(Defect::ForgetRefusals), Disk::of(8_192));
        let (path, client) = (disk.path("sagas.db"), Client::new());
        let server = block_in_place(|| saga_server(&place, &path));
        let lasting = start_lasting(&client, &server, 1).await;
        drop(std::fs::write(disk.path("ballast"), vec![0; 5 << 20]));
        let sagas = format!("{}/v1/sagas", server.url);
        let until = std::time::Instant::now() + PATIENCE * 2;
        let room = || std::fs::write(disk.path("more"), vec![0; 64 << 10]).is_ok();
        for number in 0.. {
            assert!(std::time::Instant::now() < until, "the disk is not full");
            let body = rest(number);
            let answer = ask(&client, Method::POST, sagas.clone(), Some(&body));
            // Who would be refused waits.
            match tokio::time::timeout(PATIENCE / 15, answer).await {
                Ok((status, said)) => assert_eq!(status, 201, "{said}"),
                Err(_) if room() => std::fs::remove_file(disk.path("more")).unwrap(),
                Err(_) => break,
            }
        }
        assert_eq!(readiness(&client, &server).await.0, 200, "it takes nothing, and is ready");
        // Nor is who decides told at once, and not for ever kept waiting.
        let cancel = format!("{sagas}/{lasting}/cancel");
        let why = json!({"reason": "a mistake"});
        let answer = ask(&client, Method::POST, cancel, Some(&why));
        let (status, said) = tokio::time::timeout(PATIENCE * 2, answer).await.unwrap();
        assert_eq!((status.as_u16(), &said["code"]), (504, &json!("OW0011")), "{said}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_database_that_is_not_looked_for_is_noticed() {
        let (place, client) = (Place::with_defect(Defect::TrustPaths), Client::new());
        let path = place.path("sagas.db");
        let server = block_in_place(|| saga_server(&place, &path));
        std::fs::remove_file(&path).unwrap();
        let sagas = format!("{}/v1/sagas", server.url);
        let (status, answer) = ask(&client, Method::POST, sagas, Some(&rest(1))).await;
        assert_eq!(status, 201, "it is written where nobody finds it: {answer}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn retention_that_does_not_wait_for_the_archive_is_noticed() {
        if !is_inside("disk::sabotage::retention_that_does_not_wait_for_the_archive_is_noticed") {
            return;
        }
        let place = Place::with_defect(Defect::DeleteUnkept);
        let (_server, disk, path, accepted) = archiving_on_a_full_disk(&place).await;
        let kept = || number(&path, "SELECT count(*) FROM onewrite_saga");
        block_in_place(|| eventually("they are gone", || kept() == 0));
        let archived = archived(&disk);
        let is_lost = |id: &String| archived.iter().all(|saga| saga["id"] != **id);
        assert!(accepted.iter().any(is_lost), "all are in the archive");
    }
}
