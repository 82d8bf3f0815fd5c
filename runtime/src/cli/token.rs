//! `millstream token`: create, list and revoke access tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;

use super::GlobalArgs;
use super::client::Client;
use super::exit::Ending;
use super::open::Access;
use super::output::{Column, Output, Table};
use super::quantity;
use crate::model::TokenName;
use crate::server::{NewToken, RevokedToken, Role, TokenView};

/// What it means that the last token of a server is gone.
const NONE_LEFT: &str = "no token is left: the server lets nobody in but those who can read its data directory, who may make one with `millstream token create`; started again without tokens it is open to everybody on its own machine, or does not start if it listens off loopback";
/// What it means where no server runs.
const NONE_LEFT_OFFLINE: &str = "no token is left: a server that is started without any is open to everybody on its own machine, and does not start off loopback; `millstream token create` makes one";

/// The verbs on tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// List all tokens, without their secrets
    List,
    /// Make a token; it is shown once, and only a hash of it is stored
    Create {
        /// Its name: it stands in the audit log and in records of deploys; `anonymous`, `local` and `owner` do already
        name: TokenName,
        /// What it may do (may be repeated)
        #[arg(long, value_enum, required = true, value_name = "ROLE")]
        role: Vec<Role>,
        /// How long it is valid [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = quantity::some_time_ms)]
        expires_in: Option<u64>,
    },
    /// Make a token invalid, from now on
    Revoke {
        /// The token
        name: TokenName,
    },
}

/// Runs a verb.
pub(super) async fn run(
    command: TokenCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    // A token can be made before there is anything else.
    let access = match &command {
        TokenCommand::Create { .. } => Access::Create,
        _ => Access::Existing,
    };
    let client = Client::connect(global, access)?;
    match command {
        TokenCommand::List => list(&client, output).await?,
        TokenCommand::Create {
            name,
            role,
            expires_in,
        } => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let now_ms = since.map_or(0, |since| since.as_millis() as u64);
            let new = NewToken {
                name,
                roles: role,
                expires_ms: expires_in.map(|ms| now_ms.saturating_add(ms)),
            };
            let made: TokenView = client.post("/v1/tokens", &new).await?;
            let token = made.token.clone().unwrap_or_default();
            output.result(&made, |output| output.line(&token))?;
            super::progress::note(&format!(
                "this is the token `{}`; it cannot be shown again",
                made.name
            ));
        }
        TokenCommand::Revoke { name } => {
            let revoked: RevokedToken = client.delete(&format!("/v1/tokens/{name}")).await?;
            output.result(&revoked, |output| {
                output.line(format_args!("revoked token `{name}`"))
            })?;
            if revoked.tokens_left == 0 {
                super::progress::note(match client.is_offline() {
                    true => NONE_LEFT_OFFLINE,
                    false => NONE_LEFT,
                });
            }
        }
    }
    Ok(Ending::Done)
}

async fn list(client: &Client, output: &mut Output) -> anyhow::Result<()> {
    let tokens: Vec<TokenView> = client.get("/v1/tokens", &()).await?;
    output.result(&tokens, |output| {
        let mut table = Table::new(&[
            Column::Text("token"),
            Column::Text("roles"),
            Column::Text("created"),
            Column::Text("expires"),
        ]);
        for token in &tokens {
            let roles: Vec<_> = token.roles.iter().map(|role| role.as_str()).collect();
            let expires = token.expires_ms;
            table.row([
                token.name.to_string(),
                roles.join(","),
                quantity::format_time_ms(token.created_ms),
                expires.map_or_else(|| "never".to_owned(), quantity::format_time_ms),
            ]);
        }
        output.table_or(
            &table,
            "There are no tokens yet; `millstream token create NAME --role ROLE` makes one.",
        )
    })?;
    Ok(())
}
