//! What all commands share that change the ring's configuration: what became of it, and waiting until it is carried out.

use std::time::Duration;

use clap::Args;

use super::super::exit::Failure;
use super::client::ClientArgs;
use super::output::Done;
use crate::admin::{Admin, Change};

#[derive(Args)]
pub(in crate::cli) struct ChangeArgs {
    /// Wait until every partition is where it should be then, at most so long, such as 1m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    #[command(flatten)]
    client: ClientArgs,
}

impl ChangeArgs {
    pub(super) async fn admin(&self) -> Result<Admin, Failure> {
        self.client.admin().await
    }

    /// Says what became of a change, once it is carried out where that is waited for.
    pub(super) async fn report(&self, admin: &Admin, change: &Change, what: &str) -> Done {
        if let Some(limit) = self.wait {
            admin.wait_at_rest(limit).await?;
        }
        let mut output = self.client.output();
        if output.json {
            return output.document(change);
        }
        output.line(&if change.changed { what.to_owned() } else { format!("nothing to change: {what}") })?;
        for note in &change.notes {
            output.line(&format!("note: {note}"))?;
        }
        Ok(())
    }
}
