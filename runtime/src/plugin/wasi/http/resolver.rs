//! Looks up the addresses of names, and remembers them for a short time.
//!
//! The system's resolver blocks for as long as it likes, so that each lookup has a thread of its own
//! which nobody has to wait for to the end. How many there are is bounded; and since a name is looked
//! up once every some seconds, whatever the number of requests, there are few.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use ureq::{
    Error,
    config::Config,
    http::{Uri, uri::Scheme},
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

/// How long addresses are taken for right.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Most names that are remembered.
const MAX_NAMES: usize = 1_024;
/// Most lookups at a time.
const MAX_LOOKUPS: usize = 64;
/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 16;

/// A name and a port.
type Target = (String, u16);

/// Looks names up.
#[derive(Debug, Default)]
pub(super) struct CachingResolver {
    known: Mutex<HashMap<Target, Known>>,
    lookups: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    at: Instant,
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let (host, port) = target(uri)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => self.addresses((host, port), timeout)?,
        };
        let mut resolved = self.empty();
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            resolved.push(address);
        }
        match resolved.is_empty() {
            true => Err(Error::HostNotFound),
            false => Ok(resolved),
        }
    }
}

fn target(uri: &Uri) -> Result<Target, Error> {
    let default_port = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => 80,
        _ => 443,
    };
    let host = uri.host().ok_or_else(|| Error::BadUri(uri.to_string()))?;
    Ok((host.to_owned(), uri.port_u16().unwrap_or(default_port)))
}

impl CachingResolver {
    fn addresses(&self, target: Target, timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
        if let Some(known) = self.known.lock().get(&target)
            && known.at.elapsed() < MAX_AGE
        {
            return Ok(known.addresses.clone());
        }
        let addresses = self.look_up(target.clone(), timeout)?;
        let mut known = self.known.lock();
        if known.len() >= MAX_NAMES {
            known.retain(|_, known| known.at.elapsed() < MAX_AGE);
        }
        if known.len() < MAX_NAMES {
            let at = Instant::now();
            let addresses = addresses.clone();
            known.insert(target, Known { addresses, at });
        }
        Ok(addresses)
    }

    fn look_up(&self, target: Target, timeout: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
        let lookup = Lookup::start(&self.lookups)?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let look = move || {
            let found = target.to_socket_addrs().map(Iterator::collect);
            // Before anybody knows that it has ended.
            drop(lookup);
            // Whoever asked may have given up.
            let _ = sender.send(found);
        };
        thread::Builder::new()
            .name("plugin-dns".to_owned())
            .spawn(look)
            .map_err(Error::Io)?;
        match receiver.recv_timeout(*timeout.after) {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(Error::HostNotFound),
            Err(RecvTimeoutError::Timeout) => Err(Error::Timeout(timeout.reason)),
        }
    }
}

/// A lookup that is under way.
struct Lookup(Arc<AtomicUsize>);

impl Lookup {
    fn start(count: &Arc<AtomicUsize>) -> Result<Self, Error> {
        let lookup = Self(Arc::clone(count));
        if count.fetch_add(1, Ordering::Relaxed) >= MAX_LOOKUPS {
            return Err(Error::Other(
                format!("more than {MAX_LOOKUPS} names are being looked up").into(),
            ));
        }
        Ok(lookup)
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use ureq::{Timeout, unversioned::transport::time};

    use super::*;

    fn resolve(resolver: &CachingResolver, uri: &'static str) -> Result<Vec<SocketAddr>, Error> {
        let timeout = NextTimeout {
            after: time::Duration::from_secs(30),
            reason: Timeout::Resolve,
            ..NextTimeout::default()
        };
        let found = resolver.resolve(&Uri::from_static(uri), &Config::default(), timeout)?;
        Ok(found.iter().copied().collect())
    }

    #[test]
    fn addresses_need_no_lookup() {
        let resolver = CachingResolver::default();
        let found = resolve(&resolver, "http://127.0.0.1:8080/").unwrap();
        assert_eq!(found, ["127.0.0.1:8080".parse().unwrap()]);
        let found = resolve(&resolver, "https://[::1]/").unwrap();
        assert_eq!(found, ["[::1]:443".parse().unwrap()]);
        assert!(resolver.known.lock().is_empty());
    }

    #[test]
    fn names_are_remembered_and_lookups_counted() {
        let resolver = CachingResolver::default();
        let found = resolve(&resolver, "http://localhost/").unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.port() == 80));
        assert!(
            resolver
                .known
                .lock()
                .contains_key(&("localhost".to_owned(), 80))
        );
        // No further lookup may start, and none is needed.
        resolver.lookups.store(MAX_LOOKUPS, Ordering::Relaxed);
        assert_eq!(resolve(&resolver, "http://localhost/").unwrap(), found);
        assert!(matches!(
            resolve(&resolver, "http://localhost:1/"),
            Err(Error::Other(_))
        ));
        assert_eq!(resolver.lookups.load(Ordering::Relaxed), MAX_LOOKUPS);
    }
}
