//! Plugins that say of the wrong record that they trap on it, or say nothing: no other record suffers, and the bound of
//! calls that docs/delivery-semantics.md names holds all the same.

use super::*;

/// Where the guest says that it traps, as an index in the batch. `$n` is how many records there are, `$at` the
/// index of the first one that is poison, `$first` the offset of the first record.
const LIES: [(&str, &str); 10] = [
    ("the first", "(i32.const 0)"),
    ("the second", "(i32.const 1)"),
    ("the last", "(i32.sub (local.get $n) (i32.const 1))"),
    ("the middle", "(i32.div_u (local.get $n) (i32.const 2))"),
    ("the one before", "(i32.sub (local.get $at) (i32.const 1))"),
    ("the one after", "(i32.add (local.get $at) (i32.const 1))"),
    ("one past the end", "(local.get $n)"),
    ("none that there could be", "(i32.const -1)"),
    // Another one in each call.
    (
        "any",
        "(i32.rem_u (i32.add (i32.mul (local.get $n) (i32.const 31)) (i32.mul (local.get $first) (i32.const 7))) (local.get $n))",
    ),
    // The truth, where it costs nothing to find it, and else a lie.
    (
        "the right one, if it is early",
        "(select (local.get $at) (i32.sub (local.get $n) (i32.const 1)) (i32.lt_u (local.get $at) (i32.const 3)))",
    ),
];

/// A guest that traps on a batch that holds a record whose value begins with `P`, and says before where.
fn traps_and_says(hint: &str) -> Guest {
    fails_on_poison(&format!("(call $trapping-at {hint}) unreachable"))
}

/// A guest that never comes back from a batch that holds a record whose value begins with `P`.
fn loops() -> Guest {
    fails_on_poison("(loop $forever (br $forever))")
}

/// A guest that fails, with these instructions, on a batch that holds a record whose value begins with `P`.
fn fails_on_poison(fail: &str) -> Guest {
    let process = format!(
        r"(local $n i32) (local $at i32) (local $from i32) (local $first i32)
        (local.set $n (call $count (local.get $batch)))
        (local.set $first (i32.load (i32.load offset=80 (local.get $batch))))
        (block $fine
          (loop $next
            (br_if $fine (i32.ge_u (local.get $at) (local.get $n)))
            (if (i32.eq (i32.const 0x50)
                  (i32.load8_u (i32.add (i32.load offset=32 (local.get $batch)) (local.get $from))))
              (then {fail}))
            (local.set $from (i32.load (i32.add (i32.load offset=40 (local.get $batch))
              (i32.mul (local.get $at) (i32.const 4)))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next)))
        (call $pass (local.get $batch))"
    );
    Guest::new(&process).import(
        "millstream:plugin/context@0.1.0",
        "trapping-at",
        r#"(param "index" u32)"#,
        "(param i32)",
    )
}

/// A pipeline with such a guest, on a topic of one partition.
struct Liar {
    scene: Scene,
    lie: &'static str,
    sent: Vec<String>,
}

impl Liar {
    async fn new(lie: &'static str, hint: &str, order: &str) -> Self {
        Self::with(lie, &traps_and_says(hint), order, "").await
    }

    /// As [`new`](Self::new), with any guest and further settings.
    async fn with(lie: &'static str, guest: &Guest, order: &str, settings: &str) -> Self {
        let scene = Scene::new();
        let plugin = scene.plugin(guest);
        let settings = format!("retry = {{ max-attempts = 1, order = \"{order}\" }}\n{settings}");
        let text = manifest("m", "a", &settings)
            .replace("partitions = 4", "partitions = 1")
            .replace("max-records = 16", "max-records = 1024");
        scene.apply(&text, &plugin).await.unwrap();
        Self {
            scene,
            lie,
            sent: Vec::new(),
        }
    }

    /// Runs a batch of so many records, of which these are poison. Returns the calls that it took.
    async fn run(&mut self, records: usize, poison: &[usize]) -> u64 {
        let calls = || self.scene.status("a").totals.calls.calls;
        let before = calls();
        self.scene.pipelines.pause(&name("a")).await.unwrap();
        let topic = self.scene.log.topic(&"in".parse().unwrap()).unwrap();
        let mut producer = Producer::new(self.scene.log.clone(), topic);
        for at in 0..records {
            let word = if poison.contains(&at) { "P" } else { "f" };
            let value = format!("{word}{}", self.sent.len());
            let key = format!("k{}", at % 5);
            let (key, bytes) = (Some(key.as_bytes()), Some(value.as_bytes()));
            let sent = producer.send(None, 7, key, bytes, HeadersRef::EMPTY);
            sent.await.unwrap();
            self.sent.push(value);
        }
        producer.flush().await.unwrap();
        self.scene.pipelines.resume(&name("a")).await.unwrap();
        self.scene.wait_until_idle().await;
        calls() - before
    }

    /// As [`run`](Self::run); and it took no more calls than it may, for each of the poison records.
    async fn run_within_bound(&mut self, records: usize, poison: &[usize]) -> u64 {
        let calls = self.run(records, poison).await;
        let each = 2.0 * (records as f64).log2() + 2.0;
        let most = 1.0 + each * poison.len() as f64;
        let lie = self.lie;
        assert!(
            calls as f64 <= most,
            "{calls} calls for {poison:?} among {records} with a plugin that says `{lie}`, and at most {most}"
        );
        calls
    }

    /// Everything but the poison has come through, once and in order, and nothing else was given up on.
    fn assert_all_came_through(&self) {
        let out = self.scene.records("out").remove(0);
        let out: Vec<_> = out.into_iter().map(|(_, value)| value).collect();
        assert_eq!(out, self.sent_with("f"), "{}", self.lie);
        let queues = &self.scene.queues;
        let letters = queues.queue(&"a.dead-letters".parse().unwrap()).unwrap();
        let letters = stored_records(self.scene.log.store(), letters.partition()).into_iter();
        let letters: Vec<_> = letters.map(|(_, letter)| letter.value).collect();
        assert_eq!(letters, self.sent_with("P"), "{}", self.lie);
    }

    fn sent_with(&self, word: &str) -> Vec<Option<Bytes>> {
        let sent = self.sent.iter().filter(|value| value.starts_with(word));
        sent.map(|value| Some(Bytes::from(value.clone()))).collect()
    }
}

/// One poison record, at each place of batches of all small sizes, and at some of large ones.
///
/// Fails when what is before the record that a plugin names is asked again where it traps, when what is after it is
/// not known to be bad although all before it is fine, and when a plugin is believed again that was wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_names_the_wrong_record_costs_no_more_calls_than_one_that_names_none() {
    for (lie, hint) in LIES {
        let mut liar = Liar::new(lie, hint, "key").await;
        assert_eq!(liar.run(300, &[]).await, 1, "one batch");
        for records in 1..=10 {
            for poison in 0..records {
                liar.run_within_bound(records, &[poison]).await;
            }
        }
        for (records, poison) in [
            (64, 63),
            (300, 0),
            (300, 1),
            (512, 100),
            (512, 170),
            (512, 510),
        ] {
            liar.run_within_bound(records, &[poison]).await;
        }
        liar.assert_all_came_through();
    }
}

/// Many poison records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_names_wrong_records_gives_up_on_no_other() {
    for (lie, hint) in LIES {
        for order in ["none", "key"] {
            let mut liar = Liar::new(lie, hint, order).await;
            for poison in [
                &[0, 1][..],
                &[2, 200, 299],
                &[150, 151, 152, 153],
                &[1, 298],
            ] {
                liar.run_within_bound(300, poison).await;
            }
            liar.assert_all_came_through();
        }
    }
}

/// A run of records on each of which the plugin loops until its deadline: nobody says where, each takes a deadline to be
/// found out, and what stands before, between and behind them comes through.
///
/// The bound for each of them would let every record run alone. So the bound of a run is held against it, too: where
/// everything is poison nothing is gained by halving, and only its ends have to be looked for.
///
/// Fails when a part that is known to be bad is called all the same, and when the records are tried one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_records_that_loop_costs_what_it_may_and_stalls_nobody() {
    const RECORDS: usize = 300;
    let settings = "limits = { deadline = \"500ms\" }";
    let mut looping = Liar::with("nothing", &loops(), "key", settings).await;
    for poison in [
        (140..146).collect::<Vec<_>>(),
        (0..4).collect(),
        (297..300).collect(),
        (0..RECORDS).step_by(150).collect(),
    ] {
        let calls = looping.run_within_bound(RECORDS, &poison).await;
        let is_run = poison.last() == Some(&(poison[0] + poison.len() - 1));
        let most = 2 * poison.len() + 4 * RECORDS.ilog2() as usize;
        assert!(
            !is_run || calls <= most as u64,
            "{calls} calls for a run of {}, and at most {most}",
            poison.len()
        );
    }
    looping.assert_all_came_through();
}
