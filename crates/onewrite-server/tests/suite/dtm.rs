//! The published client of dtm, unchanged, over `onewrite serve --dtm`.

use std::net::SocketAddr;

use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::{
    serve::{JsonBody as _, Started, anywhere, serve},
    services::{example, script},
    support::{Place, Run, Running, eventually, free_address, number, texts},
};

/// A bank and a server, and dtm's client between them.
struct World {
    place: Place,
    bank: String,
    dtm: String,
    _bank: Running,
}

impl World {
    fn new(bank: &[&str]) -> (Self, Started) {
        Self::at(anywhere(), bank)
    }

    fn at(listen: SocketAddr, bank: &[&str]) -> (Self, Started) {
        let place = Place::new();
        let database = place.path("accounts.db");
        let own = ["--database", database.to_str().unwrap(), "bank", "--port", "0"];
        let args = [&own, bank].concat();
        let bank = Running::of(script(&example("dtm.py"), &args));
        let line = bank.lines(1).remove(0);
        let server = Self::serve(&place, listen);
        let dtm = format!("{}/api/dtmsvr", server.url);
        let url = format!("http://127.0.0.1:{}", line.rsplit(' ').next().unwrap());
        (Self { place, bank: url, dtm, _bank: bank }, server)
    }

    fn serve(place: &Place, listen: SocketAddr) -> Started {
        serve(place, listen, &["--dtm", "--allow-private-urls"])
    }

    fn client(&self, verb: &str, gid: &str, more: &[&str]) -> Run {
        let database = self.place.path("accounts.db");
        let own = [
            "--database",
            database.to_str().unwrap(),
            verb,
            gid,
            "--dtm",
            &self.dtm,
            "--bank",
            &self.bank,
        ];
        Run::of(script(&example("dtm.py"), &[&own, more].concat()))
    }

    /// What was done for a transaction, in order.
    fn effects(&self, gid: &str) -> Vec<String> {
        let sql = format!("SELECT step FROM effect WHERE gid = '{gid}' ORDER BY n");
        texts(&self.place.path("accounts.db"), &sql)
    }

    fn becomes(&self, gid: &str, effects: &[&str]) {
        eventually(&format!("{gid}: {effects:?}"), || self.effects(gid) == effects);
    }

    async fn get(&self, route: &str) -> Value {
        let answer = Client::new().get(format!("{}/{route}", self.dtm)).send().await.unwrap();
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    }

    async fn status(&self, gid: &str) -> String {
        let said = self.get(&format!("query?gid={gid}")).await;
        said["transaction"]["status"].as_str().unwrap_or("none").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_of_the_published_client_complete_or_are_compensated() {
    let (world, server) = block_in_place(|| World::new(&["--lose-every", "3"]));
    block_in_place(|| {
        assert_eq!(world.client("saga", "g-1", &["--wait"]).code, Some(0));
        assert_eq!(world.effects("g-1"), ["out", "in"]);
        // A repeated submit changes nothing, and is not told that it failed.
        assert_eq!(world.client("saga", "g-1", &["--wait"]).code, Some(0));
        let refused = world.client("saga", "g-2", &["--to", "closed", "--wait"]);
        assert!(refused.code == Some(1) && refused.err.contains("failed: FAILURE"), "{refused:?}");
        assert_eq!(world.effects("g-2"), ["out", "out_back"]);
        let again = world.client("saga", "g-2", &["--to", "closed"]);
        assert!(again.code == Some(1) && again.err.contains("failed: FAILURE"), "{again:?}");
        assert_eq!((world.effects("g-1").len(), world.effects("g-2").len()), (2, 2));
    });
    assert_eq!(
        (world.status("g-1").await, world.status("g-2").await),
        ("succeed".into(), "failed".into())
    );
    let said = world.get("query?gid=g-2").await;
    let branches: Vec<String> = said["branches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|branch| {
            let text = |name: &str| branch[name].as_str().unwrap();
            format!("{} {} {}", text("branch_id"), text("op"), text("status"))
        })
        .collect();
    assert_eq!(
        branches,
        ["01 action succeed", "02 action failed", "02 compensate succeed", "01 compensate succeed"]
    );
    assert_eq!(world.status("nobody").await, "none");
    // What was not prepared is neither given up by a starter, nor taken for a message that is.
    for route in ["abort", "prepare", "submit"] {
        let body = json!({"gid": "g-1", "trans_type": "msg", "steps": [{"action": "http://127.0.0.1:1/"}],
            "query_prepared": "http://127.0.0.1:1/"});
        let request = Client::new().post(format!("{}/{route}", world.dtm)).json_body(&body);
        assert_eq!(request.send().await.unwrap().status(), 409, "{route}");
    }
    let all = world.get("all?limit=1").await;
    assert_eq!(all["transactions"][0]["gid"], "g-2");
    let next = format!("all?limit=1&position={}", all["next_position"].as_str().unwrap());
    assert_eq!(world.get(&next).await["transactions"][0]["gid"], "g-1");
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// S30: the message goes if and only if its sender has committed, whatever becomes of the sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_if_and_only_if_its_sender_has_committed() {
    let (world, server) = block_in_place(|| World::new(&[]));
    block_in_place(|| {
        assert_eq!(world.client("message", "m-1", &[]).code, Some(0));
        world.becomes("m-1", &["out", "in"]);
        // It died behind its commit: it is asked, and has committed.
        assert_eq!(world.client("message", "m-2", &["--die", "behind"]).code, Some(9));
        world.becomes("m-2", &["out", "in"]);
        // It died before: it is asked, and never will.
        assert_eq!(world.client("message", "m-3", &["--die", "before"]).code, Some(9));
        let said_no = world.client("message", "m-4", &["--fail"]);
        assert!(said_no.code == Some(1) && said_no.err.contains("not enough"), "{said_no:?}");
    });
    for gid in ["m-3", "m-4"] {
        block_in_place(|| {
            eventually(gid, || {
                let handle = tokio::runtime::Handle::current();
                handle.block_on(world.status(gid)) == "failed"
            });
        });
        assert_eq!(world.effects(gid), [""; 0], "{gid}");
    }
    // Who comes with it after all is told.
    let late = block_in_place(|| world.client("message", "m-3", &[]));
    assert!(late.code == Some(1) && late.err.contains("failed: FAILURE"), "{late:?}");
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// The control: who tells the server only afterwards may die in between, and nobody knows of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_not_prepared_is_lost_with_its_sender() {
    let (world, server) = block_in_place(|| World::new(&[]));
    block_in_place(|| {
        let died = world.client("message", "m-1", &["--unprepared", "--die", "behind"]);
        assert_eq!((died.code, world.effects("m-1")), (Some(9), vec!["out".to_owned()]));
    });
    assert_eq!(world.status("m-1").await, "none", "nobody will ever put it in");
    block_in_place(|| drop(server.process.terminate().ok()));
}

/// The control: branches that do not keep the barrier act once for each answer that is lost as well.
#[tokio::test(flavor = "multi_thread")]
async fn branches_without_a_barrier_act_twice() {
    let (world, server) =
        block_in_place(|| World::new(&["--lose-every", "2", "--forget-branches"]));
    block_in_place(|| {
        assert_eq!(world.client("saga", "g-1", &["--wait"]).code, Some(0));
        assert!(world.effects("g-1").len() > 2, "{:?}", world.effects("g-1"));
        server.process.terminate().ok();
    });
}

/// The server is killed and started again while clients submit; each transfer is whole or undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_no_transaction_of_dtm() {
    let listen = free_address();
    let (world, server) = block_in_place(|| World::at(listen, &["--lose-every", "4"]));
    block_in_place(|| {
        let submit = |gid: &str, more: &[&str]| world.client("saga", gid, more).code;
        for n in 0..4 {
            assert_eq!(submit(&format!("k-{n}"), &[]), Some(0));
        }
        drop(server.process.kill());
        let server = World::serve(&world.place, listen);
        for n in 0..8 {
            // The first ones a second time: their clients heard nothing.
            let to = if n % 4 == 3 { "closed" } else { "mina" };
            let more = if n < 4 { vec![] } else { vec!["--to", to] };
            assert_eq!(submit(&format!("k-{n}"), &more), Some(0), "k-{n}");
        }
        for n in 0..8 {
            world.becomes(
                &format!("k-{n}"),
                if n == 7 { &["out", "out_back"] } else { &["out", "in"] },
            );
        }
        drop(server.process.terminate().ok());
        let path = world.place.path("accounts.db");
        assert_eq!(number(&path, "SELECT sum(cents) FROM effect"), 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_transaction_is_refused() {
    let place = Place::new();
    let server = block_in_place(|| serve(&place, anywhere(), &["--dtm"]));
    let post = async |route: &str, body: Value| {
        let request = Client::new().post(format!("{}/api/dtmsvr/{route}", server.url));
        let answer = request.json_body(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let step = |url: &str| json!({"gid": "g", "trans_type": "saga", "steps": [{"action": url}], "payloads": ["{}"]});
    for (route, body, status, word) in [
        ("submit", json!({"gid": "g", "trans_type": "tcc"}), 422, "only saga and msg"),
        ("submit", json!({"gid": "", "trans_type": "saga"}), 422, "the gid"),
        ("submit", json!({"gid": "g", "trans_type": "saga", "steps": []}), 422, "no steps"),
        (
            "submit",
            json!({"gid": "g", "trans_type": "saga", "steps": [{}], "custom_data": "{"}),
            422,
            "custom_data",
        ),
        ("submit", step("http://127.0.0.1:1/"), 422, "private"),
        ("submit", step("ftp://bank.example/"), 422, "begins with http"),
        ("prepare", step("http://bank.example/"), 422, "only messages"),
        ("prepare", json!({"gid": "g", "trans_type": "msg", "steps": [{}]}), 422, "query_prepared"),
        ("abort", json!({"gid": "g", "trans_type": "msg"}), 404, "no `g`"),
        ("abort", json!({"gid": "g", "trans_type": "saga"}), 422, "prepared"),
        ("registerBranch", json!({}), 404, "route"),
    ] {
        let (found, said) = post(route, body.clone()).await;
        assert!(found == status && said.contains(word), "{route} {body}: {found} {said}");
        // Clients look for these words.
        assert!(!said.contains("FAILURE") && !said.contains("ONGOING"), "{said}");
    }
    block_in_place(|| drop(server.process.terminate().ok()));
    let without = block_in_place(|| serve(&place, anywhere(), &[]));
    let gid = reqwest::get(format!("{}/api/dtmsvr/newGid", without.url)).await.unwrap();
    assert_eq!(gid.status(), 404);
    block_in_place(|| drop(without.process.terminate().ok()));
}
