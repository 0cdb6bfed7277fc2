//! The lanes of a stream as Redis has them: a stream of its own for each, and in it a group for each
//! receiver.
//!
//! The consumer within the group has the group's name in every process. Which process reads is decided by
//! leases in the receiver's database, and what one has read and not acknowledged is the next one's without
//! asking whose it was. No consumers of processes that are gone pile up in the group.

use std::{collections::HashMap, sync::Arc, time::Duration};

use onewrite_core::{Result, Text};
use onewrite_lanes::{Announcement, Answer, Lanes};
use redis::{Value, cmd};

use crate::{
    StreamOptions, connect::Server, gaps::gap_channel, held::Held, message::EntryId,
    reader::RedisReader, stream, stream::Layout,
};

/// The lanes of a stream for one receiver. An entry's token is its id.
pub(crate) struct RedisLanes {
    pub(crate) server: Arc<Server>,
    pub(crate) options: StreamOptions,
    pub(crate) layout: Layout,
    pub(crate) group: Text,
    pub(crate) ack_wait: Duration,
    pub(crate) pending_max: usize,
    pub(crate) held: Vec<Arc<Held>>,
}

impl RedisLanes {
    fn held(&self, lane: u16) -> Arc<Held> {
        self.held.get(usize::from(lane)).map(Arc::clone).unwrap_or_default()
    }

    /// Creates the group of a lane, unless it is there. It is looked for first: a server whose memory is
    /// full creates nothing, and reading on is what makes room.
    pub(crate) async fn create_group(&self, lane: u16) -> Result<()> {
        let key = self.layout.key(lane);
        let asked = cmd("XINFO").arg("GROUPS").arg(&key).to_owned();
        // An error says that there is no stream yet.
        let groups: Option<Vec<HashMap<String, Value>>> =
            self.server.allowed("does not show the groups of a lane", &asked).await?;
        let name = Value::BulkString(self.group.as_bytes().to_vec());
        if groups.iter().flatten().any(|group| group.get("name") == Some(&name)) {
            return Ok(());
        }
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&key).arg(&*self.group).arg("0").arg("MKSTREAM");
        let created = self.server.ask::<()>("creates no group", &create).await;
        created.or_else(|error| {
            let is_there = error.to_string().contains("BUSYGROUP");
            if is_there { Ok(()) } else { Err(error) }
        })
    }

    async fn say(&self, command: &redis::Cmd) {
        let what = "does not take an answer";
        let saying = self.server.ask::<Value>(what, command);
        match tokio::time::timeout(self.server.timeout(), saying).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "what is not answered comes again"),
            Err(_) => tracing::debug!("the Redis server takes no answers; entries come again"),
        }
    }
}

impl Lanes for RedisLanes {
    type Token = EntryId;
    type Reader = RedisReader;

    async fn open(&self, lane: u16) -> Result<RedisReader> {
        // It may have been removed meanwhile, by hand or with the server's data.
        stream::open(&self.server, &self.options).await?;
        self.create_group(lane).await?;
        let held = self.held(lane);
        held.clear();
        RedisReader::open(self, lane, held).await
    }

    async fn answer(&self, lane: u16, answer: Answer, ids: Vec<EntryId>) {
        let (key, group, held) = (self.layout.key(lane), &*self.group, self.held(lane));
        match answer {
            Answer::Done | Answer::GiveUp => {
                self.say(cmd("XACK").arg(key).arg(group).arg(&ids)).await;
                held.remove(&ids);
            }
            Answer::InWork => {
                // Claimed by who has it already, an entry is only as young again as if just read.
                let mut claim = cmd("XCLAIM");
                claim.arg(key).arg(group).arg(group).arg(0).arg(&ids).arg("JUSTID");
                self.say(&claim).await;
            }
            // Whoever opens the lane gets what the group has read and not acknowledged, and everything
            // said before was answered by the server when it was said.
            Answer::Back => held.clear(),
        }
    }

    async fn announce(&self, said: &Announcement) {
        let Ok(payload) = serde_json::to_vec(said) else { return };
        self.say(cmd("PUBLISH").arg(gap_channel(&self.layout.stream)).arg(payload)).await;
    }
}
