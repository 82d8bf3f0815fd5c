//! Histories on a server: versions are deployed to pipelines that run, while records come and the server is killed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::checks;
use super::ledger::{Ledger, PIPELINES, Told, When};
use super::scene::{Setting, VERSIONS, VERSIONS_WITH_STATE};
use super::workload::Workload;
use crate::failpoints;
use crate::server::Server;
use crate::server_pipelines::wait_until;
use crate::support::{Random, Sandbox, note, plugins};

/// Rounds of sending and deploying, each on a server of its own.
const ROUNDS: u64 = 6;
/// The round after which the server is stopped in good order.
const QUIET_ROUND: u64 = 3;
/// Steps of a deploy.
const DEPLOY_STEPS: [&str; 2] = ["deploy::swapped", "deploy::ended"];
/// Records of a request.
const PORTION: usize = 20;
/// Between requests, so that records come for as long as versions are deployed.
const BETWEEN_PORTIONS: Duration = Duration::from_millis(15);
/// How long a thread has to come to a step again after it has said that it was there.
const TO_THE_NEXT: Duration = Duration::from_millis(30);
/// After this a server is killed although no thread came to its step.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a thread says that is about to wait at its step.
const IS_NEAR: &str = "is near";

/// Deploys of the history under full load.
const DEPLOYS: usize = 50;
/// Producers of that history.
const PRODUCERS: usize = 2;
/// Records of a request in that history.
const LARGE_PORTION: u64 = 200;
/// Records that may wait in a pipeline before the producers do.
const MAX_LAG_RECORDS: u64 = 4_000;
/// Records of that history, about: where deploys take long, a ledger of all that could be sent meanwhile has no end.
const MAX_SENT_RECORDS: usize = 100_000;

/// Deploys that succeed in any case: one in each round without a kill.
const CERTAIN_DEPLOYS: usize = 2;
/// Records that a version is given for itself.
const RECORDS_OF_ITS_OWN: u64 = 40;

/// When a server is killed.
#[derive(Clone, Copy)]
enum Kill {
    /// So long after it listens.
    After(Duration),
    /// While a thread stands at a step, when that was passed some times.
    At { step: &'static str, passes: u64 },
}

impl Kill {
    /// One kill in three comes at a step of a commit, and one in three at a step of a deploy.
    fn next(random: &mut Random) -> Self {
        let of = |random: &mut Random, steps: &[&'static str]| {
            steps[random.within(0..steps.len() as u64) as usize]
        };
        match random.within(0..3) {
            0 => Self::After(random.within_ms(50..700)),
            1 => Self::At {
                step: of(random, &failpoints::STEPS),
                passes: random.within(1..120),
            },
            _ => Self::At {
                step: of(random, &DEPLOY_STEPS),
                passes: random.within(0..4),
            },
        }
    }

    fn failpoint(self) -> String {
        match self {
            Self::After(_) => String::new(),
            Self::At { step, passes: 0 } => format!(";{step}=1*print({IS_NEAR})->pause"),
            Self::At { step, passes } => {
                format!(";{step}={passes}*off->1*print({IS_NEAR})->pause")
            }
        }
    }
}

/// Deploys that were made while records came.
#[derive(Clone, Copy, Default)]
struct Deployed {
    /// Of which the server said that they succeeded.
    succeeded: usize,
    /// Of which nothing was heard, since the server was killed.
    cut_off: usize,
}

/// One history on a server.
pub struct LiveHistory {
    seed: u64,
    setting: Setting,
    sandbox: Sandbox,
    random: Random,
    workload: Workload,
    kill_count: u64,
    deployed: Deployed,
}

impl LiveHistory {
    /// One that the environment's seed decides, or else the time.
    pub fn new(setting: Setting) -> Self {
        assert!(setting.keeps_state, "there is one version without state");
        assert_eq!(setting.input(0), "topic:in", "it sends to a topic");
        let mut random = Random::from_environment();
        Self {
            seed: random.seed(),
            setting,
            sandbox: Sandbox::with_durability(setting.durability),
            workload: Workload::new(setting, &mut random),
            random,
            kill_count: 0,
            deployed: Deployed::default(),
        }
    }

    /// Runs it from its beginning to its end, and checks.
    #[track_caller]
    pub fn unfold(mut self) {
        self.apply().stop();
        for round in 0..ROUNDS {
            let kill = (round != QUIET_ROUND).then(|| Kill::next(&mut self.random));
            self.round(kill);
            let when = kill.map_or(When::Idle, |_| When::Killed);
            checks::assert_holds(&self.ledger(when), self.seed);
        }
        self.round(None);
        self.let_each_version_work();
        let Deployed { succeeded, cut_off } = self.deployed;
        let ledger = self.ledger(When::Over);
        let changes = [0, 1].map(|pipeline| checks::version_changes(&ledger, pipeline));
        note(format_args!(
            "{} kills, {succeeded} deploys and {cut_off} cut off, {changes:?} changes of the version",
            self.kill_count
        ));
        checks::assert_holds(&ledger, self.seed);
        assert!(succeeded >= CERTAIN_DEPLOYS, "{succeeded} deploys");
        assert!(changes.iter().all(|count| *count > 0), "{changes:?}");
    }

    /// Two producers send as fast as it goes while the versions take turns, one right after the other.
    #[track_caller]
    pub fn unfold_under_full_load(mut self) {
        let server = self.apply();
        let components = components();
        let feed = Feed {
            server: &server,
            source: Mutex::new((self.workload, self.random)),
            sent: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        };
        let started = Instant::now();
        let busy = std::thread::scope(|scope| {
            let _over = Over(&feed.is_over);
            for _ in 0..PRODUCERS {
                scope.spawn(|| feed.send_all_the_time());
            }
            wait_until("records on their way", || lag_records(&server, 0) > 0);
            let mut busy = 0;
            for turn in 1..=DEPLOYS {
                busy += usize::from([0, 1].iter().any(|it| lag_records(&server, *it) > 0));
                let deployed = deploy(&server, &components[turn % VERSIONS_WITH_STATE]);
                assert_succeeded(&deployed.unwrap());
            }
            busy
        });
        let took = started.elapsed();
        let sent = feed.sent.into_inner();
        (self.workload, self.random) = feed.source.into_inner().unwrap();
        wait_until_idle(&server);
        server.stop();
        let ledger = self.ledger(When::Over);
        let changes = [0, 1].map(|pipeline| checks::version_changes(&ledger, pipeline));
        note(format_args!(
            "{DEPLOYS} deploys in {took:?}, {busy} of them with records waiting, {sent} records, {changes:?} changes of the version"
        ));
        checks::assert_holds(&ledger, self.seed);
        assert_eq!(ledger.inputs.len(), sent);
        // How many find records waiting at the moment when they look, and how many of them a version comes to
        // before the next one takes its place, depends on the machine.
        assert!(busy > 0, "no deploy was under load");
        assert!(changes.iter().all(|count| *count > 0), "{changes:?}");
    }

    /// Starts a server and gives it the pipelines.
    fn apply(&self) -> Server {
        self.setting.deploy(&self.sandbox, 0);
        let server = Server::start(&self.sandbox, &[]);
        self.sandbox.succeed(&["apply", "millstream.toml"]);
        server
    }

    #[track_caller]
    fn ledger(&self, when: When) -> Ledger<'_> {
        let told = Told {
            setting: self.setting,
            sent: self.workload.sent(),
            early_count: self.workload.early_count(),
            kill_count: self.kill_count,
            when,
        };
        Ledger::read(&self.sandbox, told)
    }

    /// Sends records to a server and deploys versions to it, until it is killed or, without a kill, has done all.
    fn round(&mut self, kill: Option<Kill>) {
        let count = self.setting.records / ROUNDS;
        let from = self.workload.add(&mut self.random, count);
        let lines: Vec<String> = self.workload.lines(from).collect();
        let mut deploys = Random::from_seed(self.random.next());
        let started = Instant::now();
        let Some(server) = self.start(kill) else {
            note("server killed while it started");
            self.kill_count += 1;
            self.workload.send_from(&self.sandbox, from);
            return;
        };
        let all_sent = AtomicBool::new(false);
        let (acknowledged, deployed) = std::thread::scope(|scope| {
            let producer = scope.spawn(|| {
                let _over = Over(&all_sent);
                send_in_portions(&server, &lines)
            });
            let deployer = scope.spawn(|| deploy_at_random(&server, &mut deploys, &all_sent));
            if let Some(kill) = kill {
                wait_for(kill, &server);
                server.process().strike();
            }
            (producer.join().unwrap(), deployer.join().unwrap())
        });
        self.deployed.succeeded += deployed.succeeded;
        self.deployed.cut_off += deployed.cut_off;
        match kill {
            Some(kill) => {
                assert!(server.kill(), "the server ended by itself");
                self.kill_count += 1;
                note(format_args!(
                    "server killed {} after {:?}: {acknowledged} of {count} acknowledged, {} deploys",
                    told(kill),
                    started.elapsed(),
                    deployed.succeeded
                ));
                self.workload.send_from(&self.sandbox, from + acknowledged);
            }
            None => {
                assert_eq!(acknowledged as u64, count);
                wait_until_idle(&server);
                server.stop();
            }
        }
    }

    /// Gives each version records that no other one gets. In the rounds that depends on how long deploys take.
    fn let_each_version_work(&mut self) {
        let server = self.start(None).expect("a server that nobody kills");
        for component in &components() {
            assert_succeeded(&deploy(&server, component).unwrap());
            let from = self.workload.add(&mut self.random, RECORDS_OF_ITS_OWN);
            let lines: Vec<String> = self.workload.lines(from).collect();
            send(&server, &lines).unwrap();
            wait_until_idle(&server);
        }
        server.stop();
    }

    /// Starts a server; none if it came to the step of its kill before it listened, and was killed there.
    fn start(&self, kill: Option<Kill>) -> Option<Server> {
        let mut command = self.sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
        let failpoint = kill.map(Kill::failpoint).unwrap_or_default();
        command
            .env(
                "FAILPOINTS",
                format!("state::fold-now=20%return{failpoint}"),
            )
            .env("RUST_LOG", "error,fail=info");
        let mut process = self.sandbox.start_command(command);
        let listens = |stdout: &str| stdout.contains("listening on");
        process.wait_until("the server to listen, or a step", |process| {
            listens(&process.stdout()) || process.stderr().contains(IS_NEAR)
        });
        if listens(&process.stdout()) {
            return Some(Server::of(process));
        }
        assert!(process.kill().0, "the server ended by itself");
        None
    }
}

/// Sets a flag when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Records for the producers that send all the time.
struct Feed<'a> {
    server: &'a Server,
    source: Mutex<(Workload, Random)>,
    sent: AtomicUsize,
    is_over: AtomicBool,
}

impl Feed<'_> {
    fn send_all_the_time(&self) {
        let is_enough = || self.sent.load(Ordering::SeqCst) >= MAX_SENT_RECORDS;
        while !self.is_over.load(Ordering::SeqCst) && !is_enough() {
            let lines: Vec<String> = {
                let (workload, random) = &mut *self.source.lock().unwrap();
                let from = workload.add(random, LARGE_PORTION);
                workload.lines(from).collect()
            };
            send(self.server, &lines).unwrap();
            self.sent.fetch_add(lines.len(), Ordering::SeqCst);
            while !self.is_over.load(Ordering::SeqCst) && self.are_far_behind() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn are_far_behind(&self) -> bool {
        [0, 1]
            .iter()
            .any(|pipeline| lag_records(self.server, *pipeline) > MAX_LAG_RECORDS)
    }
}

/// Sends lines to `in`. All of them are acknowledged, unless the server goes away.
fn send(server: &Server, lines: &[String]) -> Result<(), ureq::Error> {
    let body = lines.join("\n") + "\n";
    let path = "/v1/topics/in/records";
    let answered = server.try_send("POST", path, "application/x-ndjson", body.as_bytes())?;
    assert_eq!(answered.expect(200).json()["acknowledged"], lines.len());
    Ok(())
}

/// Sends lines to `in`, portion by portion. Returns how many were acknowledged until the server was gone.
fn send_in_portions(server: &Server, lines: &[String]) -> usize {
    let mut acknowledged = 0;
    for portion in lines.chunks(PORTION) {
        if send(server, portion).is_err() {
            break;
        }
        acknowledged += portion.len();
        std::thread::sleep(BETWEEN_PORTIONS);
    }
    acknowledged
}

/// The components of the versions that keep state.
fn components() -> [Vec<u8>; VERSIONS_WITH_STATE] {
    let mut packages = VERSIONS.iter().map(|(package, _)| package);
    std::array::from_fn(|_| {
        let package = packages.next().expect("a version");
        std::fs::read(plugins::component(package)).unwrap()
    })
}

/// Posts a component and deploys it.
fn deploy(server: &Server, wasm: &[u8]) -> Result<Json, ureq::Error> {
    let path = "/v1/plugins/ledger/versions";
    let uploaded = server.try_send("POST", path, "application/wasm", wasm)?;
    assert!([200, 201].contains(&uploaded.status), "{}", uploaded.body);
    let request = json!({ "digest": uploaded.json()["digest"] }).to_string();
    let path = "/v1/plugins/ledger/deploy";
    let deployed = server.try_send("POST", path, "application/json", request.as_bytes())?;
    Ok(deployed.expect(200).json())
}

#[track_caller]
fn assert_succeeded(deployed: &Json) {
    assert_eq!(deployed["outcome"], "succeeded", "{deployed}");
}

/// Deploys the versions in turn, with pauses between them, until everything is sent or the server is gone.
fn deploy_at_random(server: &Server, random: &mut Random, all_sent: &AtomicBool) -> Deployed {
    let components = components();
    let mut deployed = Deployed::default();
    let mut version = random.within(0..VERSIONS_WITH_STATE as u64) as usize;
    loop {
        // What is sent last is for this version.
        let is_last = all_sent.load(Ordering::SeqCst);
        version = (version + 1) % VERSIONS_WITH_STATE;
        let Ok(answer) = deploy(server, &components[version]) else {
            deployed.cut_off += 1;
            return deployed;
        };
        assert_succeeded(&answer);
        deployed.succeeded += 1;
        if is_last {
            return deployed;
        }
        std::thread::sleep(random.within_ms(0..60));
    }
}

/// Waits until it is time for a kill.
fn wait_for(kill: Kill, server: &Server) {
    match kill {
        Kill::After(pause) => std::thread::sleep(pause),
        Kill::At { .. } => {
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline && !server.process().stderr().contains(IS_NEAR) {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(TO_THE_NEXT);
        }
    }
}

fn told(kill: Kill) -> String {
    match kill {
        Kill::After(pause) => format!("{pause:?} after it listened,"),
        Kill::At { step, passes } => format!("at {step}, {passes},"),
    }
}

/// How a pipeline stands on the server.
fn described(server: &Server, pipeline: usize) -> Json {
    let path = format!("/v1/pipelines/{}", PIPELINES[pipeline]);
    server.get(&path).expect(200).json()
}

fn lag_records(server: &Server, pipeline: usize) -> u64 {
    described(server, pipeline)["lag_records"].as_u64().unwrap()
}

/// Waits until nothing is left to do.
fn wait_until_idle(server: &Server) {
    for (number, name) in PIPELINES.iter().enumerate() {
        wait_until(&format!("`{name}` idle"), || {
            let described = described(server, number);
            let running = &described["running"];
            assert_eq!(running["state"], "running", "{described}");
            described["lag_records"] == 0 && running["totals"]["parked_records"] == 0
        });
    }
}
