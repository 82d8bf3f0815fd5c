//! `millstream serve`: the data directory over HTTP, until the process is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::GlobalArgs;
use super::exit::Ending;
use super::interrupt::Interrupt;
use super::open::{Access, DataDirectory};
use super::output::Output;
use super::signatures::SignatureArgs;
use super::traces::TraceArgs;
use super::{listen_address, progress, quantity};
use crate::deploy::{self, Deployments};
use crate::log::Maintenance;
use crate::plugin::{EngineOptions, PluginEngine};
use crate::queue;
use crate::server::{Data, Limits, Server, ServerOptions, TlsFiles};
use crate::storage::{self, Store, WriteFailure, layout};

/// What batches under way get of the time to stop, whatever requests took of it.
const LEAST_GRACE: Duration = Duration::from_secs(5);
/// How long a server goes on after a write has failed: `/readyz` says why meanwhile.
const FAILURE_SHOWN_FOR: Duration = Duration::from_secs(10);
/// How long a server waits for the data directory while another process holds it: longer than verbs take that look at it.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks meanwhile whether the data directory is free.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Where to listen: an address, or a host name, with a port; anything but loopback needs TLS and a token
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MILLSTREAM_LISTEN",
        default_value = "127.0.0.1:8474",
        value_parser = listen_address::parse
    )]
    listen: SocketAddr,

    /// The certificate for TLS and those that lead to a root, in PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "MILLSTREAM_TLS_CERTIFICATES",
        requires = "tls_key"
    )]
    tls_certificates: Option<PathBuf>,

    /// The private key for TLS, in PEM
    #[arg(
        long,
        value_name = "FILE",
        env = "MILLSTREAM_TLS_KEY",
        requires = "tls_certificates"
    )]
    tls_key: Option<PathBuf>,

    #[command(flatten)]
    signatures: SignatureArgs,

    /// The largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = quantity::size)]
    max_body_bytes: u64,

    /// What the bodies of all requests under way may hold together; more are told to come back
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = quantity::size)]
    max_inflight_bytes: u64,

    /// What the answers that clients have not read yet may hold together; more are told to come back
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = quantity::size)]
    max_unread_bytes: u64,

    /// Connections at a time, and no more than a quarter of the files that may be open; some more wait, others are closed
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections, value_parser = quantity::count)]
    max_connections: usize,

    /// Consumers that wait for records or messages at a time; more are told to come back
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().waiting_consumers, value_parser = quantity::count)]
    max_waiting_consumers: usize,

    /// Free space on the disk below which `/readyz` says no, and pipelines with records that wait to be tried again
    /// take no new ones
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = quantity::size)]
    min_free_disk: u64,

    /// How long after a deploy it can be rolled back with state: its checkpoint holds on to disk space
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = quantity::duration)]
    checkpoint_retention: Duration,

    /// Plugin instances at a time, of all pipelines together
    #[arg(long, value_name = "COUNT", default_value_t = EngineOptions::default().max_instances)]
    max_instances: u32,

    /// How long requests and batches under way may take when the server is told to stop
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = quantity::duration)]
    grace: Duration,

    #[command(flatten)]
    traces: TraceArgs,
}

impl ServeArgs {
    fn options(&self) -> ServerOptions {
        let files = self.tls_certificates.clone().zip(self.tls_key.clone());
        ServerOptions {
            listen: self.listen,
            tls: files.map(|(certificates, key)| TlsFiles { certificates, key }),
            limits: Limits {
                body_bytes: usize::try_from(self.max_body_bytes).unwrap_or(usize::MAX),
                inflight_bytes: usize::try_from(self.max_inflight_bytes).unwrap_or(usize::MAX),
                unread_bytes: usize::try_from(self.max_unread_bytes).unwrap_or(usize::MAX),
                connections: self.max_connections,
                waiting_consumers: self.max_waiting_consumers,
                free_disk_bytes: self.min_free_disk,
                ..Limits::default()
            },
            grace: self.grace,
        }
    }
}

/// A server that has started.
#[derive(Debug, Serialize)]
struct Started {
    url: String,
}

/// Serves until told to stop.
pub(super) async fn run(
    args: ServeArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let interrupt = Interrupt::listen("finishing what is under way")?;
    let signatures = args.signatures.rules()?;
    // Dropped last, when nothing makes spans any more.
    let _traces = args.traces.start()?;
    let Some(data) = open_when_free(global, &interrupt).await? else {
        return Ok(Ending::Done);
    };
    let DataDirectory {
        log,
        queues,
        groups,
    } = data;
    let store = log.store().clone();
    store.keep_free_disk(args.min_free_disk);
    let engine = PluginEngine::new(EngineOptions {
        cache_dir: Some(global.data_dir.join(layout::PLUGIN_CACHE)),
        max_instances: args.max_instances,
    })
    .context("cannot run plugins")?;
    let deployments = Deployments::open(&log, &queues, &groups, &engine, signatures).await?;
    let data = Data {
        log: log.clone(),
        queues: queues.clone(),
        groups,
    };
    let server = Server::start(data, deployments.clone(), args.options())?;
    let maintenance = (
        Maintenance::start(log),
        queue::Maintenance::start(queues.clone()),
        deploy::Maintenance::start(deployments.clone(), args.checkpoint_retention),
    );
    restore(&deployments).await?;
    server.started();
    let beginning = deployments.clone();
    // It waits for batch boundaries, and the server for nobody.
    tokio::spawn(async move { beginning.begin_waiting().await });
    let started = Started {
        url: server.url().to_owned(),
    };
    output.result(&started, |output| {
        output.line(format_args!("listening on {}", started.url))
    })?;
    output.flush()?;
    let failure = until_told_or_failed(&interrupt, &store).await;
    let stopping = Instant::now();
    // No new requests first: one that deploys would start what is being stopped.
    server.stop().await;
    let left = args
        .grace
        .saturating_sub(stopping.elapsed())
        .max(LEAST_GRACE);
    if tokio::time::timeout(left, deployments.stop())
        .await
        .is_err()
    {
        progress::note("warning: some batches did not end in time; they will run again");
    }
    drop(maintenance);
    match failure {
        None => Ok(Ending::Done),
        Some(failure) => {
            Err(storage::Error::from(failure)).context("the store takes no more writes")
        }
    }
}

/// Opens the data directory, and waits a while for whoever holds it: a verb that looks at it must not keep a server from
/// starting. `None` if the server is told to stop meanwhile.
async fn open_when_free(
    global: &GlobalArgs,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<DataDirectory>> {
    let began = Instant::now();
    let mut is_told = false;
    loop {
        let error = match DataDirectory::open_with(global, Access::Create, true) {
            Ok(data) => return Ok(Some(data)),
            Err(error) => error,
        };
        let Some(storage::Error::Locked { path, holder }) = error.downcast_ref() else {
            return Err(error);
        };
        if began.elapsed() >= LOCK_PATIENCE {
            return Err(error);
        }
        if !std::mem::replace(&mut is_told, true) {
            progress::note(&format!(
                "the data directory {} is in use by another process{holder}; waiting for it, {} s at most",
                path.display(),
                LOCK_PATIENCE.as_secs()
            ));
        }
        tokio::select! {
            () = interrupt.requested() => return Ok(None),
            () = tokio::time::sleep(LOCK_POLL) => {}
        }
    }
}

/// Starts what was applied, and tells what could not be started.
async fn restore(deployments: &Deployments) -> anyhow::Result<()> {
    for not_restored in deployments.restore().await? {
        progress::note(&format!(
            "warning: the manifest `{}` could not be started again: {}",
            not_restored.manifest, not_restored.error
        ));
    }
    Ok(())
}

/// Returns when the server is to end: it was told to, or a write has failed. That one is returned after a while.
async fn until_told_or_failed(interrupt: &Interrupt, store: &Store) -> Option<WriteFailure> {
    let failure = tokio::select! {
        () = interrupt.requested() => return None,
        failure = store.failed() => failure,
    };
    progress::note(&format!(
        "a write failed: {}; nothing is written any more, and the server ends in {} s",
        failure.reason,
        FAILURE_SHOWN_FOR.as_secs()
    ));
    // Whoever asks is told why, and what is stored can be read.
    let _ = tokio::time::timeout(FAILURE_SHOWN_FOR, interrupt.requested()).await;
    Some(failure)
}
