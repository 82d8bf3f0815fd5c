//! Bearer tokens: 32 random bytes, of which only the SHA-256 is stored, with a name and roles.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::Role;
use crate::model::TokenName;
use crate::storage::schema::{KeyKind, token as token_key};
use crate::storage::{self, Commit, Scan, Store};

/// What a token starts with, so that scanners for leaked secrets find it.
const PREFIX: &str = "mst_";
const SECRET_BYTES: usize = 32;
/// Who came without a token, while none was needed.
pub(super) const ANONYMOUS: &str = "anonymous";
/// Who came with the token that a server leaves in its data directory.
pub(super) const LOCAL: &str = "local";
/// Who has the data directory open.
pub(super) const OWNER: &str = "owner";
/// What the audit log and records of deploys call those who have no token of this kind: a token of such a name could not be
/// told from them. One that was made before there was this rule may have it.
const RESERVED_NAMES: [&str; 3] = [ANONYMOUS, LOCAL, OWNER];

/// What can go wrong with tokens.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A token of this name exists.
    #[error("a token named `{0}` exists already; revoke it first, or take another name")]
    Exists(TokenName),
    /// The name means somebody who has no token.
    #[error(
        "no token can have the name `{0}`, which is what the audit log calls somebody without one; take another name"
    )]
    Reserved(TokenName),
    /// There is no token of this name.
    #[error("there is no token named `{0}`")]
    Unknown(TokenName),
    /// A token without roles could do nothing.
    #[error("a token needs at least one role: read, produce, consume, deploy or admin")]
    NoRoles,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
    /// The data directory failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// What is stored of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoredToken {
    /// SHA-256 of the token, in hexadecimal digits.
    sha256: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// When it was made, in ms since the epoch.
    pub created_ms: u64,
    /// When it stops being valid, in ms since the epoch; never if there is none.
    #[serde(default)]
    pub expires_ms: Option<u64>,
}

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token's name; a fixed word if there is no token.
    pub name: Arc<str>,
    roles: Vec<Role>,
    /// SHA-256 of the token, in hexadecimal digits; `None` for those that need none.
    sha256: Option<String>,
}

impl Identity {
    /// Somebody who may do everything.
    pub(in crate::server) fn all_powerful(name: &str) -> Self {
        Self {
            name: Arc::from(name),
            roles: vec![Role::Admin],
            sha256: None,
        }
    }

    /// Whether it has one of the tokens that are stored.
    pub fn has_token(&self) -> bool {
        self.sha256.is_some()
    }

    /// Whether it may do what needs this role.
    pub fn may(&self, role: Role) -> bool {
        self.roles.contains(&role) || self.roles.contains(&Role::Admin)
    }
}

/// The tokens of a data directory. Clones share them.
#[derive(Clone)]
pub struct Tokens {
    store: Store,
    by_name: Arc<RwLock<BTreeMap<TokenName, StoredToken>>>,
    /// Whether there has been one since the data directory was opened.
    has_had_any: Arc<AtomicBool>,
    /// One change at a time: between looking for a name and storing it nobody else may do so.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Changes whenever a token does.
    changed: Arc<watch::Sender<u64>>,
}

impl Tokens {
    /// Reads the tokens of a data directory.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn open(store: Store) -> Result<Self, Error> {
        let mut by_name = BTreeMap::new();
        store.scan_kind(KeyKind::Token, |key, value| {
            let name = token_key::parse_key(key).and_then(|name| TokenName::try_from(name).ok());
            let stored = serde_json::from_slice(value).ok();
            let (name, stored) = name.zip(stored).ok_or_else(|| storage::Error::Damaged {
                what: "a token".to_owned(),
                reason: "malformed entry; revoke and create it again".to_owned(),
            })?;
            by_name.insert(name, stored);
            Ok(Scan::Continue)
        })?;
        let has_had_any = !by_name.is_empty();
        Ok(Self {
            store,
            has_had_any: Arc::new(AtomicBool::new(has_had_any)),
            by_name: Arc::new(RwLock::new(by_name)),
            changing: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.read().is_empty()
    }

    /// Whether there is one, or was one since the data directory was opened. It stays so: whoever takes the last one away
    /// means to let nobody in, and not everybody.
    pub fn has_had_any(&self) -> bool {
        self.has_had_any.load(Ordering::Acquire)
    }

    /// All tokens, by name.
    pub fn list(&self) -> Vec<(TokenName, StoredToken)> {
        let by_name = self.by_name.read();
        let entries = by_name.iter();
        entries
            .map(|(name, token)| (name.clone(), token.clone()))
            .collect()
    }

    /// Makes a token, and returns it: it cannot be had again.
    ///
    /// # Errors
    /// [`Error::Reserved`], [`Error::Exists`], [`Error::NoRoles`], [`Error::Random`], [`Error::Storage`]
    pub async fn create(
        &self,
        name: &TokenName,
        mut roles: Vec<Role>,
        expires_ms: Option<u64>,
    ) -> Result<String, Error> {
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() {
            return Err(Error::NoRoles);
        }
        if RESERVED_NAMES.contains(&name.as_str()) {
            return Err(Error::Reserved(name.clone()));
        }
        let _changing = self.changing.lock().await;
        if self.by_name.read().contains_key(name) {
            return Err(Error::Exists(name.clone()));
        }
        let token = random_token()?;
        let stored = StoredToken {
            sha256: hash(&token),
            roles,
            created_ms: self.store.clock().now_ms(),
            expires_ms,
        };
        let value = serde_json::to_vec(&stored).map_err(|error| storage::Error::Damaged {
            what: format!("token {name}"),
            reason: error.to_string(),
        })?;
        let mut commit = Commit::new();
        commit.put(KeyKind::Token, token_key::key(name.as_str()), value.into());
        self.store.commit(commit).await?;
        // First: in between, the door is closed rather than open.
        self.has_had_any.store(true, Ordering::Release);
        self.by_name.write().insert(name.clone(), stored);
        self.changed.send_modify(|count| *count += 1);
        Ok(token)
    }

    /// Makes a token invalid, from now on. Returns how many are left, those that have expired included.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Storage`]
    pub async fn revoke(&self, name: &TokenName) -> Result<usize, Error> {
        let _changing = self.changing.lock().await;
        // First here: whatever happens to the commit, it is good for nothing from now on.
        let left = {
            let mut by_name = self.by_name.write();
            let removed = by_name.remove(name);
            removed.ok_or_else(|| Error::Unknown(name.clone()))?;
            by_name.len()
        };
        self.changed.send_modify(|count| *count += 1);
        let mut commit = Commit::new();
        commit.delete(KeyKind::Token, token_key::key(name.as_str()));
        self.store.commit(commit).await?;
        Ok(left)
    }

    /// Whose token it is; `None` if it is nobody's, or not valid any more.
    pub fn identify(&self, token: &str) -> Option<Identity> {
        self.owner_of(hash(token))
    }

    /// Whether the token of somebody who was identified is still good.
    pub fn is_good(&self, identity: &Identity) -> bool {
        match &identity.sha256 {
            Some(sha256) => self.owner_of(sha256.clone()).is_some(),
            None => true,
        }
    }

    /// Returns when a token is made or revoked, of whoever subscribes before.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn owner_of(&self, presented: String) -> Option<Identity> {
        let now_ms = self.store.clock().now_ms();
        let by_name = self.by_name.read();
        // Comparing hashes tells nothing of use about a token, however long it takes.
        let (name, stored) = by_name
            .iter()
            .find(|(_, stored)| stored.sha256 == presented)?;
        if stored.expires_ms.is_some_and(|expires| expires <= now_ms) {
            return None;
        }
        Some(Identity {
            name: Arc::from(name.as_str()),
            roles: stored.roles.clone(),
            sha256: Some(presented),
        })
    }
}

/// A token that nobody can guess.
pub(in crate::server) fn random_token() -> Result<String, Error> {
    let mut secret = [0; SECRET_BYTES];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| Error::Random)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret)))
}

fn hash(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StoreOptions;

    fn tokens(folder: &tempfile::TempDir) -> Tokens {
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        Tokens::open(store).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_known_until_it_is_revoked_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let name: TokenName = "ci".parse().unwrap();
        let token = {
            let tokens = tokens(&folder);
            let roles = vec![Role::Read, Role::Deploy, Role::Read];
            tokens.create(&name, roles, None).await.unwrap()
        };
        let tokens = tokens(&folder);
        let identity = tokens.identify(&token).unwrap();
        assert_eq!(&*identity.name, "ci");
        assert!(identity.may(Role::Deploy) && !identity.may(Role::Admin));
        assert_eq!(tokens.identify(&format!("{token}x")), None);
        assert!(matches!(
            tokens.create(&name, vec![Role::Read], None).await,
            Err(Error::Exists(_))
        ));
        assert!(tokens.is_good(&identity));
        assert_eq!(tokens.revoke(&name).await.unwrap(), 0);
        assert!(tokens.is_empty() && tokens.has_had_any());
        assert_eq!(tokens.identify(&token), None);
        assert!(!tokens.is_good(&identity));
    }

    /// Fails when whoever has a token can pass for somebody who has none.
    #[tokio::test]
    async fn a_token_is_not_named_as_somebody_without_one() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = tokens(&folder);
        for name in RESERVED_NAMES {
            let created = tokens
                .create(&name.parse().unwrap(), vec![Role::Read], None)
                .await;
            assert!(matches!(created, Err(Error::Reserved(_))), "{created:?}");
        }
        assert!(tokens.is_empty());
    }

    #[tokio::test]
    async fn of_two_creations_of_one_name_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = tokens(&folder);
        let name: TokenName = "ci".parse().unwrap();
        let create = || tokens.create(&name, vec![Role::Read], None);
        let (first, second) = tokio::join!(create(), create());
        assert!(
            matches!(
                (&first, &second),
                (Ok(_), Err(Error::Exists(_))) | (Err(Error::Exists(_)), Ok(_))
            ),
            "{first:?}, {second:?}"
        );
        let token = first.or(second).unwrap();
        assert!(tokens.identify(&token).is_some());
    }

    #[tokio::test]
    async fn an_expired_token_is_nobodys_and_no_token_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = tokens(&folder);
        let name: TokenName = "old".parse().unwrap();
        let token = tokens.create(&name, vec![Role::Admin], Some(1)).await;
        let token = token.unwrap();
        assert_eq!(tokens.identify(&token), None);
        let stored = serde_json::to_string(&tokens.list()[0].1).unwrap();
        assert!(!stored.contains(&token[PREFIX.len()..]), "{stored}");
    }
}
