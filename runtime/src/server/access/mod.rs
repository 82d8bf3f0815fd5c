//! Who may do what: tokens with roles (`tokens.rs`), what each operation needs (`documented.rs`, `guard.rs`), where a request comes from
//! (`origin.rs`), TLS (`tls.rs`), and a record of who did what (`audit.rs`).

mod audit;
mod documented;
mod guard;
mod local;
mod origin;
mod role;
mod routes;
mod standing;
mod tls;
mod tokens;

#[cfg(test)]
mod tests;

pub use role::Role;
pub use routes::{NewToken, RevokedToken, TokenView};
pub use tls::{TlsError, TlsFiles};
pub use tokens::{Error as TokenError, StoredToken, Tokens};

pub(crate) use local::LocalServer;

pub(super) use audit::Audit;
pub(super) use documented::{SCHEME, is_for_anyone};
pub(super) use guard::{Access, Caller, Entrance, Rights, Subject, check, check_elsewhere};
pub(super) use local::Announced;
pub(super) use routes::router;
pub(super) use standing::Standing;
pub(super) use tokens::random_token;
