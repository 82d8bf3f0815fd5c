//! The guarantees of docs/delivery-semantics.md, checked over whole histories.
//!
//! A history sends records of known effect (`workload.rs`) to a topic or, with deduplication ids, to a queue, and
//! through two pipelines with a topic or a queue between them, whose messages may expire (`scene.rs`). One record in
//! a hundred asks for another attempt, and one in a thousand is poison: it traps, loops, allocates without end, is
//! rejected, or never ready. Meanwhile producer and run are killed at random moments and at the steps of a commit, and
//! restarted, with the other version of the plugin (`chaos.rs`).
//! In some histories a server runs the pipelines, and the versions are deployed to it while records come (`live.rs`).
//! After each kill, and at the end, a ledger (`ledger.rs`) is put together from everything that can be read
//! (`read.rs`), and held against what must be so (`checks.rs`).
//!
//! A seed decides what is sent, when what is killed and what is deployed. It is printed, and each failure names
//! it: `MILLSTREAM_SEED=N cargo xtask test guarantees` sends and kills the same again. The threads of the
//! engine run as they like all the same, so a fault that hangs on them may need several goes.
//!
//! What these checks catch was tried by breaking the engine by hand:
//!
//! | break | caught by |
//! |---|---|
//! | a message is acknowledged by a commit of its own, after that of its outputs | `nothing_doubled`, `queue_counts_add_up` |
//! | dead letters are left out of the checkpoint | `nothing_lost`, `one_outcome_each` |
//! | what a lane has done beyond the committed offset is not stored | `nothing_doubled`, `order_of_each_key` |
//! | a parked record is removed by a commit of its own, before that of its outcome | `nothing_lost` |
//! | at-most-once commits its progress after the call | `nothing_doubled` |
//! | deduplication ids are not stored | `nothing_doubled` |
//! | what has expired leaves its queue by a commit of its own, after that of its letter, or only in memory | `one_outcome_each`, `nothing_doubled` |
//! | what has expired leaves no letter | `one_outcome_each`, `nothing_lost` |
//! | `start = "latest"` counts again at the next start | `one_outcome_each`, `nothing_lost` |
//!
//! and one fault that was real: a second fold in one checkpoint made the state before it invisible, which
//! `state_is_a_fold` found.

mod chaos;
mod checks;
mod ledger;
mod live;
mod read;
mod scene;
mod workload;

use chaos::History;
use live::LiveHistory;
use scene::{Setting, Through};

const CHAIN: Setting = Setting {
    delivery: "exactly-once",
    source: Through::Topic,
    through: Through::Topic,
    start: "earliest",
    time_to_live: None,
    concurrency: 1,
    order: "key",
    durability: "os",
    keeps_state: true,
    records: 3_000,
};

#[test]
fn a_chain_of_topics_does_everything_once() {
    History::new(CHAIN).unfold();
}

#[test]
fn a_chain_with_a_queue_does_everything_once() {
    let through = Through::Queue;
    History::new(Setting { through, ..CHAIN }).unfold();
}

#[test]
fn many_instances_do_everything_once() {
    let setting = Setting {
        concurrency: 4,
        durability: "sync",
        ..CHAIN
    };
    History::new(setting).unfold();
}

#[test]
fn many_instances_with_a_queue_do_everything_once() {
    let setting = Setting {
        through: Through::Queue,
        concurrency: 4,
        ..CHAIN
    };
    History::new(setting).unfold();
}

#[test]
fn without_an_order_everything_is_done_once() {
    let setting = Setting {
        through: Through::Queue,
        order: "none",
        ..CHAIN
    };
    History::new(setting).unfold();
}

#[test]
fn many_instances_without_an_order_do_everything_once() {
    let setting = Setting {
        concurrency: 4,
        order: "none",
        keeps_state: false,
        ..CHAIN
    };
    History::new(setting).unfold();
}

#[test]
fn many_instances_without_state_do_everything_once() {
    let setting = Setting {
        through: Through::Queue,
        concurrency: 4,
        keeps_state: false,
        ..CHAIN
    };
    History::new(setting).unfold();
}

#[test]
fn a_queue_that_is_sent_to_again_and_again_takes_everything_once() {
    let setting = Setting {
        source: Through::Queue,
        through: Through::Queue,
        concurrency: 4,
        ..CHAIN
    };
    History::new(setting).unfold();
}

/// Whether any message expires depends on where the kills leave some waiting: so there are several histories.
#[test]
fn what_has_expired_has_no_other_outcome() {
    const HISTORIES: usize = 3;
    let setting = Setting {
        through: Through::Queue,
        time_to_live: Some("600ms"),
        concurrency: 4,
        ..CHAIN
    };
    let has_some = (0..HISTORIES).any(|_| History::new(setting).unfold() > 0);
    assert!(has_some, "no message has expired in {HISTORIES} histories");
}

#[test]
fn a_chain_that_starts_at_the_latest_record_misses_none_that_comes_later() {
    let start = "latest";
    History::new(Setting { start, ..CHAIN }).unfold();
}

#[test]
fn live_deploys_under_kills_do_everything_once() {
    LiveHistory::new(CHAIN).unfold();
}

#[test]
fn live_deploys_of_many_instances_under_kills_do_everything_once() {
    let setting = Setting {
        concurrency: 4,
        durability: "sync",
        ..CHAIN
    };
    LiveHistory::new(setting).unfold();
}

#[test]
fn live_deploys_with_a_queue_and_many_instances_under_kills_do_everything_once() {
    let setting = Setting {
        through: Through::Queue,
        concurrency: 4,
        ..CHAIN
    };
    LiveHistory::new(setting).unfold();
}

#[test]
fn fifty_live_deploys_under_full_load_do_everything_once() {
    LiveHistory::new(CHAIN).unfold_under_full_load();
}

#[test]
fn fifty_live_deploys_with_a_queue_and_many_instances_under_full_load_do_everything_once() {
    let setting = Setting {
        through: Through::Queue,
        concurrency: 4,
        ..CHAIN
    };
    LiveHistory::new(setting).unfold_under_full_load();
}

#[test]
fn at_least_once_loses_nothing() {
    let setting = Setting {
        delivery: "at-least-once",
        through: Through::Queue,
        ..CHAIN
    };
    History::new(setting).unfold();
}

#[test]
fn at_most_once_doubles_nothing() {
    let delivery = "at-most-once";
    History::new(Setting { delivery, ..CHAIN }).unfold();
}

#[test]
fn at_most_once_with_a_queue_and_many_instances_doubles_nothing() {
    let setting = Setting {
        delivery: "at-most-once",
        through: Through::Queue,
        concurrency: 4,
        ..CHAIN
    };
    History::new(setting).unfold();
}
