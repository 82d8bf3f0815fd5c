//! Creating, changing, finding and deleting queues.

use super::support::*;
use crate::queue::{Error, QueueConfig, Queues};
use crate::storage::Commit;
use crate::storage::schema::{KeyKind, topic};

#[test]
fn queues_and_their_settings_survive() {
    let mut fixture = Fixture::new();
    let config = QueueConfig {
        visibility_timeout_ms: 5,
        max_length: Some(7),
        ..QueueConfig::default()
    };
    let queue = fixture.create("q", config.clone());
    let id = queue.id();
    drop(queue);
    fixture.reopen();
    assert_eq!(*fixture.find("q").config(), config);
    let again = block_on(fixture.queues().create_queue(&name("q"), config.clone()));
    assert!(matches!(again, Err(Error::QueueExists { .. })));
    let changed = QueueConfig {
        max_length: None,
        ..config
    };
    let queue = block_on(fixture.queues().ensure_queue(&name("q"), changed.clone())).unwrap();
    assert_eq!(queue.id(), id);
    drop(queue);
    fixture.reopen();
    assert_eq!(*fixture.find("q").config(), changed);
}

#[test]
fn ids_are_shared_with_topics_and_never_used_again() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    assert_eq!(queue.id(), 0);
    enqueue(&queue, &["a"]);
    block_on(fixture.queues().delete_queue(queue.name())).unwrap();
    let mut commit = Commit::new();
    commit.put(KeyKind::Topic, topic::key(7), "{}".into());
    fixture.directory.commit(commit);
    drop(queue);
    fixture.reopen();
    assert!(fixture.queues().queues().is_empty());
    let queue = fixture.queue();
    assert_eq!(queue.id(), 8);
    assert_eq!(counts(&queue), (0, 0, 0));
}

#[test]
fn a_dead_letter_queue_is_created_and_kept_as_long_as_it_is_needed() {
    let fixture = Fixture::new();
    let config = |target: &str| QueueConfig {
        dead_letter: Some(name(target)),
        ..QueueConfig::default()
    };
    let queue = fixture.create("q", config("dead"));
    assert_eq!(*fixture.find("dead").config(), QueueConfig::default());
    let error = block_on(fixture.queues().delete_queue(&name("dead"))).unwrap_err();
    assert!(
        error.to_string().contains("takes the dead letters of `q`"),
        "{error}"
    );
    let circle = block_on(fixture.queues().ensure_queue(&name("dead"), config("q")));
    assert!(circle.unwrap_err().to_string().contains("circle"));
    block_on(fixture.queues().delete_queue(queue.name())).unwrap();
    block_on(fixture.queues().delete_queue(&name("dead"))).unwrap();
}

/// What counts is how the queues are in the end, whatever the order in which they are named.
#[test]
fn queues_that_change_together_are_checked_together() {
    let fixture = Fixture::new();
    let to = |target: Option<&str>| QueueConfig {
        dead_letter: target.map(name),
        ..QueueConfig::default()
    };
    fixture.create("a", to(Some("b")));
    let plan = |wanted: [(&str, QueueConfig); 3]| {
        let wanted = wanted.map(|(queue, config)| (name(queue), config));
        block_on(fixture.queues().plan(wanted, [name("needed")]))
    };
    let circle = plan([
        ("b", to(Some("c"))),
        ("new", to(None)),
        ("c", to(Some("a"))),
    ]);
    assert!(circle.err().unwrap().to_string().contains("circle"));
    let names = || -> Vec<String> {
        let queues = fixture.queues().queues().into_iter();
        queues.map(|queue| queue.name().to_string()).collect()
    };
    assert_eq!(names(), ["a", "b"]);
    let turned = plan([("b", to(Some("a"))), ("a", to(None)), ("c", to(Some("d")))]).unwrap();
    assert_eq!(names(), ["a", "b"]);
    block_on(turned.store()).unwrap();
    assert_eq!(names(), ["a", "b", "c", "d", "needed"]);
    assert_eq!(*fixture.find("a").config(), to(None));
    assert_eq!(*fixture.find("b").config(), to(Some("a")));
}

#[test]
fn unknown_names_come_with_a_hint() {
    let fixture = Fixture::new();
    fixture.create("orders", QueueConfig::default());
    let error = |queue: &str| {
        fixture
            .queues()
            .queue(&name(queue))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("ordres"),
        "there is no queue `ordres`; did you mean `orders`?"
    );
    let says = "there is no queue `x`; create it with `millstream queue create x`";
    assert_eq!(error("x"), says);
}

#[test]
fn settings_outside_their_limits_are_refused() {
    let fixture = Fixture::new();
    let base = QueueConfig::default;
    let bad = [
        QueueConfig {
            visibility_timeout_ms: 0,
            ..base()
        },
        QueueConfig {
            visibility_timeout_ms: 43_200_001,
            ..base()
        },
        QueueConfig {
            max_deliveries: Some(3),
            ..base()
        },
        QueueConfig {
            max_deliveries: Some(0),
            dead_letter: Some(name("d")),
            ..base()
        },
        QueueConfig {
            dead_letter: Some(name("q")),
            ..base()
        },
        QueueConfig {
            max_length: Some(0),
            ..base()
        },
        QueueConfig {
            time_to_live_ms: Some(0),
            ..base()
        },
        QueueConfig {
            default_priority: 10,
            ..base()
        },
    ];
    for config in bad {
        let created = block_on(fixture.queues().create_queue(&name("q"), config.clone()));
        assert!(
            matches!(created, Err(Error::InvalidConfig { .. })),
            "{config:?}"
        );
    }
    assert!(fixture.queues().queues().is_empty());
    let store = fixture.queues().store().clone();
    assert!(Queues::open(store).unwrap().queues().is_empty());
}
