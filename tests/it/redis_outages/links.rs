//! The link between one broker and Redis is slow or half open; the other broker's is as good as ever, and ends
//! meanwhile what the first one has minted.

use super::load::{Load, on_each};
use crate::support::network::Network;
use crate::support::process::Installation;
use crate::support::redis::RedisServer;
use std::time::Duration;

struct Linked {
    load: Load,
    network: Network,
    _redis: RedisServer,
}

impl Linked {
    async fn start() -> Option<Self> {
        let redis = RedisServer::start(&["--appendonly", "yes"]).unwrap()?;
        let network = Network::to(redis.port()).await;
        let installation = Installation::start().await;
        let brokers = on_each(&installation, [&network.url, &redis.url()], 0).await;
        let load = Load::start(installation, brokers);
        load.until_there_is_a_stock().await;
        Some(Self {
            load,
            network,
            _redis: redis,
        })
    }

    /// While it lasts: the far broker says "later" and the near one ends what the far one minted.
    async fn until_it_shows(&self) {
        self.load.until_ended_elsewhere(3).await;
        self.load.until_refused(5).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    async fn finish(self) {
        self.load.until_minted(20).await;
        self.load.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_slower_than_any_call_may_be_vouches_for_nothing_dead_and_heals_by_itself() {
    let Some(linked) = Linked::start().await else {
        return;
    };
    linked.network.delay(60);
    linked.load.until_minted(5).await;
    linked.network.delay(5000);
    linked.until_it_shows().await;
    linked.network.delay(0);
    linked.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_half_open_vouches_for_nothing_dead_and_heals_by_itself() {
    let Some(linked) = Linked::start().await else {
        return;
    };
    // Those of now are dead and nobody says so; new ones are not.
    linked.network.cut();
    linked.load.until_minted(10).await;
    // It accepts and never answers.
    linked.network.cut_for_good();
    linked.until_it_shows().await;
    linked.network.mend();
    linked.finish().await;
}

/// Redis does what it is told, and nobody hears that it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_swallows_every_answer_vouches_for_nothing_dead_and_heals_by_itself() {
    let Some(linked) = Linked::start().await else {
        return;
    };
    linked.network.swallow_answers(true);
    linked.until_it_shows().await;
    linked.network.swallow_answers(false);
    linked.finish().await;
}
