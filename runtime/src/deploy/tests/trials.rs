//! Versions that are tried out: canaries and shadows.

use super::*;
use crate::plugin::tests::guest::RawImport;

/// Attempts and pauses that are over soon.
const HASTY: &str = "retry = { max-attempts = 2, initial = \"2ms\", jitter = \"none\" }";

/// A server whose pipeline `a` passes records through, and another version of its plugin.
pub(super) async fn server(settings: &str, guest: &Guest) -> (Server, Digest, Digest) {
    let server = Server::start().await;
    let old = server.upload("p", &Guest::passthrough()).await;
    let text = manifest("m", "a", settings);
    server.deployments.apply(&text, None).await.unwrap();
    let new = server.upload("p", guest).await;
    (server, old.version.digest, new.version.digest)
}

pub(super) fn canary(partitions: &[u32], duration: Duration) -> Mode {
    Mode::Canary {
        partitions: partitions.to_vec(),
        duration_ms: duration.as_millis().try_into().unwrap(),
    }
}

/// Records that wait for the pipeline at most, so that it is soon idle, also on a machine that is busy.
const MAX_WAITING: u64 = 1_000;

/// Sends records while a deploy is under way, no faster than they are passed on, and returns how it went.
pub(super) async fn send_during(server: &Server, id: u64) -> Deploy {
    let mut from = 0;
    loop {
        let deploy = server.deployments.deploy_of(id).unwrap();
        if deploy.outcome != Outcome::Running {
            return deploy;
        }
        if server.record_count("in") - server.record_count("out") < MAX_WAITING {
            server.send(from..from + 200).await;
            from += 200;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As [`send_during`], but so few records that nobody compares how long they take, which depends on what else the machine
/// does.
pub(super) async fn send_few_during(server: &Server, id: u64) -> Deploy {
    server.send(0..800).await;
    server.deployments.wait_for(id).await.unwrap()
}

/// Values of each key, over all partitions.
fn sorted(values: Vec<Vec<Option<Bytes>>>) -> Vec<Option<Bytes>> {
    let mut sorted: Vec<_> = values.into_iter().flatten().collect();
    sorted.sort();
    sorted
}

async fn is_taken_back(settings: &str) {
    let (server, old, new) = server(settings, &Guest::new("unreachable")).await;
    let mode = canary(&[1], TIMEOUT);
    let deploy = server.deployments.deploy(&p(), &new, mode, None).await;
    let id = deploy.unwrap().id;
    let busy = server.deployments.deploy(&p(), &new, Mode::All, None).await;
    assert!(matches!(busy, Err(Error::UnderWay { .. })), "{busy:?}");
    let deploy = send_during(&server, id).await;
    assert_eq!(deploy.outcome, Outcome::RolledBack, "{deploy:?}");
    let Some(Report::Canary(report)) = deploy.report else {
        panic!("{deploy:?}");
    };
    assert!(
        report.new.failures >= 10 && report.old.failures == 0,
        "{report:?}"
    );
    server.wait_until_idle().await;
    // Nothing was lost, also not to the dead letters; on the partition of the canary neither.
    assert_eq!(sorted(server.values("out")), sorted(server.values("in")));
    let status = server.deployments.pipelines().status().remove(0);
    assert_eq!(
        (status.state, status.totals.dead_letters),
        (PipelineState::Running, 0)
    );
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
    assert_eq!(server.deployments.plugin(&p()).unwrap().current, old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_canary_is_taken_back_without_a_dead_letter() {
    is_taken_back(HASTY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_canary_does_not_stop_a_pipeline_that_stops_at_failures() {
    is_taken_back(&format!("{HASTY}\ndead-letter = \"stop\"")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_canary_of_many_instances_is_taken_back() {
    is_taken_back(&format!("{HASTY}\nconcurrency = 2")).await;
}

/// Passes records on as they came, after it has counted far down for each.
fn slow() -> Guest {
    Guest::new(
        "(local $left i32)
        (local.set $left (i32.mul (call $count (local.get $batch)) (i32.const 1000000)))
        (loop $more
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if $more (local.get $left)))
        (call $pass (local.get $batch))",
    )
}

/// It does everything right, and takes too long for it: what is compared is what was measured meanwhile.
///
/// Fails when the time in the plugin is not measured, or not of the canary's partitions alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_canary_takes_itself_back() {
    for settings in [HASTY.to_owned(), format!("{HASTY}\nconcurrency = 2")] {
        let (server, old, new) = server(&settings, &slow()).await;
        // Long enough for a sample on a machine that is busy.
        let mode = canary(&[1], Duration::from_secs(8));
        let deploy = server.deployments.deploy(&p(), &new, mode, None).await;
        let deploy = send_during(&server, deploy.unwrap().id).await;
        assert_eq!(deploy.outcome, Outcome::RolledBack, "{deploy:?}");
        let reason = deploy.reason.clone().unwrap();
        assert!(reason.contains("ns a record"), "{reason}");
        let Some(Report::Canary(report)) = deploy.report else {
            panic!("{deploy:?}");
        };
        assert!(
            report.new.record_ns() > 2.0 * report.old.record_ns(),
            "{report:?}"
        );
        assert_eq!(
            (report.old.failures, report.new.failures, report.held),
            (0, 0, 0)
        );
        server.wait_until_idle().await;
        assert_eq!(sorted(server.values("out")), sorted(server.values("in")));
        assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
        assert_eq!(server.deployments.plugin(&p()).unwrap().current, old);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_canary_is_promoted() {
    let (server, _, new) = server(HASTY, &passthrough_too()).await;
    // Long enough for a record on a machine that is busy.
    let mode = canary(&[0, 2], Duration::from_secs(5));
    let deploy = server.deployments.deploy(&p(), &new, mode, None).await;
    let id = deploy.unwrap().id;
    let digests = server.task_digests("a");
    assert!(digests[0] == new && digests[1] != new && digests[2] == new);
    let deploy = send_few_during(&server, id).await;
    assert_eq!(deploy.outcome, Outcome::Succeeded, "{deploy:?}");
    assert_eq!(server.task_digests("a"), vec![new.clone(); 4]);
    assert_eq!(server.deployments.plugin(&p()).unwrap().current, new);
    server.wait_until_idle().await;
    assert_eq!(server.values("out"), server.values("in"));
}

/// Fails when what no pipeline has is left out without a word, and when a partition has to be one of every pipeline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_on_a_partition_that_no_pipeline_has_is_refused() {
    let (server, old, new) = server(HASTY, &passthrough_too()).await;
    let deploy = async |partitions: &[u32]| {
        let mode = canary(partitions, TIMEOUT);
        server.deployments.deploy(&p(), &new, mode, None).await
    };
    for (partitions, expected) in [
        (&[0, 7][..], "a partition 7: there are 4, from 0 to 3;"),
        (&[4, 1, 9], "the partitions 4, 9: there are 4"),
    ] {
        let error = deploy(partitions).await.unwrap_err();
        assert!(matches!(error, Error::NoCanaryPartition { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        let deploys = server.deployments.deploys().unwrap();
        assert_eq!(deploys[0].outcome, Outcome::Failed);
        assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
    }
    let wider = "name = \"n\"\n[topics.wide]\npartitions = 8\n[plugins.p]\n[pipelines.b]\nfrom = \"topic:wide\"\nplugin = \"p\"\n";
    server.deployments.apply(wider, None).await.unwrap();
    let id = deploy(&[0, 7]).await.unwrap().id;
    assert_eq!(
        (&server.task_digests("a")[0], &server.task_digests("b")[7]),
        (&new, &new)
    );
    server.deployments.stop_deploy(id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_ends_when_it_is_stopped_or_its_pipeline_is() {
    let (server, old, new) = server(HASTY, &passthrough_too()).await;
    let start = |server: &Server| {
        let (deployments, new) = (server.deployments.clone(), new.clone());
        async move {
            deployments
                .deploy(&p(), &new, canary(&[3], TIMEOUT), None)
                .await
        }
    };
    let id = start(&server).await.unwrap().id;
    let deploy = server.deployments.stop_deploy(id).await.unwrap();
    assert_eq!(deploy.outcome, Outcome::RolledBack);
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);

    let id = start(&server).await.unwrap().id;
    server.deployments.pause(&pipeline("a")).await.unwrap();
    server.deployments.resume(&pipeline("a")).await.unwrap();
    let deploy = server.deployments.wait_for(id).await.unwrap();
    assert!(deploy.reason.unwrap().contains("was paused"));
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);

    // One that stays paused is not started by that.
    let id = start(&server).await.unwrap().id;
    server.deployments.pause(&pipeline("a")).await.unwrap();
    let waited = tokio::time::timeout(TIMEOUT / 2, server.deployments.wait_for(id));
    let deploy = waited.await.unwrap().unwrap();
    assert_eq!(deploy.outcome, Outcome::RolledBack);
    let status = server.deployments.pipelines().status().remove(0);
    assert_eq!(
        (status.state, status.has_running_tasks),
        (PipelineState::Paused, false)
    );
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
    server.deployments.resume(&pipeline("a")).await.unwrap();

    // A server that ends takes it back as well.
    let id = start(&server).await.unwrap().id;
    let server = server.restart().await;
    let deploy = server.deployments.deploy_of(id).unwrap();
    assert_eq!(deploy.outcome, Outcome::RolledBack);
}

async fn shadowed(guest: &Guest, settings: &str) -> (Server, ShadowReport) {
    let (server, old, new) = server(settings, guest).await;
    let mode = Mode::Shadow {
        duration_ms: TIMEOUT.as_millis().try_into().unwrap(),
    };
    let deploy = server.deployments.deploy(&p(), &new, mode, None).await;
    let id = deploy.unwrap().id;
    server.send(0..500).await;
    server.wait_until_idle().await;
    let deploy = server.deployments.stop_deploy(id).await.unwrap();
    assert_eq!(deploy.outcome, Outcome::Observed);
    let Some(Report::Shadow { mut pipelines }) = deploy.report else {
        panic!("{deploy:?}");
    };
    assert_eq!(pipelines[0].ended_early, None);
    assert_eq!(server.task_digests("a"), vec![old; 4]);
    assert_eq!(sorted(server.values("out")), sorted(server.values("in")));
    (server, pipelines.remove(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_does_the_same_reports_nothing() {
    for settings in ["", "concurrency = 2"] {
        let (_server, report) = shadowed(&passthrough_too(), settings).await;
        assert_eq!(
            (report.records, report.different_records),
            (500, 0),
            "{report:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_does_something_else_says_where() {
    let nothing = "(memory.fill (i32.const 0) (i32.const 0) (i32.const 104))
        (i32.store (i32.const 4) (call $count (local.get $batch))) (i32.const 0)";
    let (_server, report) = shadowed(&Guest::new(nothing), "").await;
    assert_eq!((report.records, report.different_records), (500, 500));
    assert_eq!(report.first.len(), 20);
    let first = &report.first[0];
    assert_eq!(first.input, Some("topic:in".parse().unwrap()));
    assert_eq!(first.what, "1 outputs, and 0 with the new version");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_faults_harms_nobody() {
    let (server, report) = shadowed(&Guest::new("unreachable"), "").await;
    assert_eq!((report.records, report.different_records), (500, 500));
    assert!(report.faults > 0);
    assert!(report.first[0].what.contains("trapped"), "{report:?}");
    let status = server.deployments.pipelines().status().remove(0);
    assert_eq!((status.totals.retries, status.totals.dead_letters), (0, 0));
}

/// Another one as long as there are not that many.
fn other(number: usize) -> Guest {
    let nops = "(nop)".repeat(number + 2);
    Guest::new(&format!("{nops} (call $pass (local.get $batch))"))
}

/// More versions are uploaded than are kept, while one of the oldest is tried out.
///
/// Fails when what is being deployed is no reason to keep a version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_tried_out_is_kept_until_it_is_promoted() {
    let (server, _, new) = server(HASTY, &passthrough_too()).await;
    for number in 0..18 {
        server.upload("p", &other(number)).await;
    }
    // Longer than the uploads take on a slow machine.
    let mode = canary(&[1], Duration::from_secs(15));
    let deploy = server.deployments.deploy(&p(), &new, mode, None).await;
    let id = deploy.unwrap().id;
    for number in 18..21 {
        server.upload("p", &other(number)).await;
    }
    let deploy = send_few_during(&server, id).await;
    assert_eq!(deploy.outcome, Outcome::Succeeded, "{deploy:?}");
    let plugin = server.deployments.plugin(&p()).unwrap();
    assert!(plugin.versions.iter().any(|it| it.digest == new));
    assert_eq!((plugin.current, plugin.versions.len()), (new.clone(), 20));

    let server = server.restart().await;
    assert!(server.deployments.restore().await.unwrap().is_empty());
    server.wait_until_idle().await;
    let status = server.deployments.pipelines().status().remove(0);
    assert_eq!(status.state, PipelineState::Running);
    assert_eq!(server.task_digests("a"), vec![new; 4]);
}

/// A version that is gone cannot become current: the next start would refuse its pipelines.
///
/// Fails when nobody looks whether it is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_gone_does_not_become_current() {
    let (server, old, new) = server(HASTY, &passthrough_too()).await;
    let begun = server
        .deployments
        .begin(&p(), new.clone(), Mode::All, None)
        .await;
    let deploy = begun.unwrap();
    let store = server.log.store();
    let mut stored = records::plugin(store, &p()).unwrap().unwrap();
    stored.versions.retain(|it| it.digest != new);
    let mut commit = Commit::new();
    records::put_plugin(&mut commit, &p(), &stored).unwrap();
    store.commit(commit).await.unwrap();
    let (id, ended) = (deploy.id, deploy.clone());
    let error = server.deployments.roll_out(deploy).await;
    assert!(
        matches!(error, Err(Error::UnknownVersion { .. })),
        "{error:?}"
    );
    let error = server.deployments.end(ended, Outcome::Succeeded, None);
    assert!(matches!(error.await, Err(Error::UnknownVersion { .. })));
    let deploy = server.deployments.deploy_of(id).unwrap();
    assert_eq!(deploy.outcome, Outcome::Failed);
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
    assert_eq!(server.deployments.plugin(&p()).unwrap().current, old);
}

/// A task that waits for its output takes the old version back all the same, also where a batch is handed to the
/// plugin once only.
///
/// Fails when a task that waits so does not look whether it is to swap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_whose_output_is_full_is_taken_back() {
    for settings in ["", "concurrency = 2"] {
        let server = Server::start().await;
        let old = server.upload("p", &Guest::passthrough()).await;
        let old = old.version.digest;
        let text = manifest(
            "m",
            "a",
            &format!("delivery = \"at-most-once\"\n{settings}"),
        );
        let text = text
            .replace(
                "[topics.out]\npartitions = 4",
                "[queues.full]\nmax-length = 1",
            )
            .replace("topic:out", "queue:full");
        server.deployments.apply(&text, None).await.unwrap();
        let new = server.upload("p", &passthrough_too()).await.version.digest;
        let queue = server.queues.queue(&"full".parse().unwrap()).unwrap();
        let message = crate::model::Record {
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp_ms: 1,
        };
        queue.enqueue(&[message]).await.unwrap();
        let mode = canary(&[1], TIMEOUT);
        let deploy = server.deployments.deploy(&p(), &new, mode, None).await;
        let id = deploy.unwrap().id;
        server.send(0..100).await;
        let has_called = || {
            let status = server.deployments.pipelines().status().remove(0);
            status.tasks[1].totals.calls.records > 0
        };
        while !has_called() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let stopped = server.deployments.stop_deploy(id);
        let deploy = tokio::time::timeout(TIMEOUT / 4, stopped).await;
        let deploy = deploy.expect("its task does not look").unwrap();
        assert_eq!(deploy.outcome, Outcome::RolledBack);
        assert_eq!(server.task_digests("a"), vec![old; 4]);
        let status = server.deployments.pipelines().status().remove(0);
        assert_eq!(status.state, PipelineState::Running);
    }
}

/// The time of day, in seconds since the epoch.
fn now_s() -> u64 {
    Clock::system().now_ms() / 1_000
}

/// As [`Guest::passthrough`], which opens until then only.
fn opens_until(until_s: u64) -> Guest {
    let clock = RawImport {
        component: r#"(import "wasi:clocks/wall-clock@0.2.6" (instance $wall
              (type $datetime' (record (field "seconds" u64) (field "nanoseconds" u32)))
              (export "datetime" (type $datetime (eq $datetime')))
              (export "now" (func (result $datetime)))))
            (core func $wall-now (canon lower (func $wall "now") (memory $memory)))"#,
        core: r#"(import "host" "wall-now" (func $wall-now (param i32)))"#,
        with: r#"(export "wall-now" (func $wall-now))"#,
    };
    let open = format!(
        "(call $wall-now (i32.const 3072))
        (if (i64.gt_u (i64.load (i32.const 3072)) (i64.const {until_s})) (then (return (call $error))))
        (i32.store (i32.const 0) (i32.const 0)) (i32.const 0)"
    );
    Guest::passthrough().raw_import(clock).open(&open)
}

/// The record of the deploy says which version runs: no task stays with the one that was taken back, also if the
/// old one does not open any more. Then none runs.
///
/// Fails when a task that cannot swap back goes on as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_task_stays_with_a_canary_that_is_taken_back() {
    let server = Server::start().await;
    let until_s = now_s() + 20;
    let old = server.upload("p", &opens_until(until_s)).await;
    let old = old.version.digest;
    let text = manifest("m", "a", "allow = { clocks = true }");
    server.deployments.apply(&text, None).await.unwrap();
    let new = server.upload("p", &passthrough_too()).await.version.digest;
    let mode = canary(&[1], TIMEOUT);
    let deploy = server.deployments.deploy(&p(), &new, mode, None).await;
    let id = deploy.unwrap().id;
    assert_eq!(server.task_digests("a")[1], new);
    while now_s() <= until_s {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let deploy = server.deployments.stop_deploy(id).await.unwrap();
    assert_eq!(deploy.outcome, Outcome::RolledBack);
    assert_eq!(server.task_digests("a"), vec![old; 4]);
    server.wait_until_idle().await;
    let status = server.deployments.pipelines().status().remove(0);
    assert_eq!(status.state, PipelineState::Failed);
}

/// One pipeline has the new version already, another one refuses it, and the old one does not open any more.
///
/// Fails when a pipeline that cannot be given the old version back goes on with the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pipeline_stays_with_a_version_whose_deploy_has_failed() {
    let server = Server::start().await;
    let until_s = now_s() + 20;
    let old = server.upload("p", &opens_until(until_s)).await;
    let old = old.version.digest;
    for (name, grants) in [
        ("a", "clocks = true, random = true"),
        ("b", "clocks = true"),
    ] {
        let text = manifest(name, name, &format!("allow = {{ {grants} }}"));
        server.deployments.apply(&text, None).await.unwrap();
    }
    let random = "wasi:random/random@0.2.6";
    let new = passthrough_too().import(random, "get-random-u64", "(result u64)", "(result i64)");
    let new = server.upload("p", &new).await.version.digest;
    while now_s() <= until_s {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let deployed = server.deployments.deploy(&p(), &new, Mode::All, None).await;
    assert!(
        matches!(deployed, Err(Error::DeployFailed { .. })),
        "{deployed:?}"
    );
    for name in ["a", "b"] {
        assert_eq!(server.task_digests(name), vec![old.clone(); 4]);
    }
    server.wait_until_idle().await;
    let states = server.deployments.pipelines().status().into_iter();
    let states: Vec<_> = states.map(|it| it.state).collect();
    assert_eq!(states, [PipelineState::Failed, PipelineState::Running]);
}

/// A shadow that has not seen all of its time says so, whatever has ended it.
///
/// Fails when tasks that start again, or have failed, leave it silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_ended_early_says_so() {
    let fails_on_demand = Guest::new(
        "(if (i32.eq (call $count (local.get $batch)) (i32.const 1)) (then unreachable))
        (call $pass (local.get $batch))",
    );
    for fails in [false, true] {
        let server = Server::start().await;
        server.upload("p", &fails_on_demand).await;
        let stops = "dead-letter = \"stop\"\nretry = { max-attempts = 1 }";
        let text = manifest("m", "a", stops);
        server.deployments.apply(&text, None).await.unwrap();
        let new = server.upload("p", &passthrough_too()).await.version.digest;
        let mode = Mode::Shadow {
            duration_ms: TIMEOUT.as_millis().try_into().unwrap(),
        };
        let deploy = server.deployments.deploy(&p(), &new, mode, None).await;
        let id = deploy.unwrap().id;
        match fails {
            true => {
                server.send(0..1).await;
                server.wait_until_idle().await;
                let status = server.deployments.pipelines().status().remove(0);
                assert_eq!(status.state, PipelineState::Failed);
            }
            false => {
                server.deployments.pause(&pipeline("a")).await.unwrap();
                server.deployments.resume(&pipeline("a")).await.unwrap();
            }
        }
        let deploy = server.deployments.stop_deploy(id).await.unwrap();
        let Some(Report::Shadow { pipelines }) = deploy.report else {
            panic!("{deploy:?}");
        };
        let reason = pipelines[0].ended_early.as_ref().unwrap();
        assert!(
            reason.contains("the pipeline has failed, or was"),
            "{reason}"
        );
    }
}
