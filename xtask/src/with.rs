//! `cargo xtask with postgres,nats -- COMMAND`: a command beside private servers.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Command, signal::unix::SignalKind};

use crate::{
    servers::{self, Server, Servers, Signals},
    workspace,
};

/// The database that is made for the command.
const DATABASE: &str = "onewrite";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The servers to start, with commas between them.
    #[arg(required = true, value_delimiter = ',')]
    servers: Vec<Server>,
    /// The command and its arguments. It finds the servers in its environment (`ONEWRITE_POSTGRES`,
    /// `ONEWRITE_MARIADB`, `ONEWRITE_NATS`, `ONEWRITE_RABBITMQ`, `ONEWRITE_REDIS`, `ONEWRITE_KAFKA`), for programs of this repository the first store
    /// and the first broker as `ONEWRITE_STORE` and `ONEWRITE_BROKER`, and for its tests all as `ONEWRITE_TEST_…`.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Runs the command in the caller's folder; its exit code is ours.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    servers::install_missing(&options.servers, false)?;
    servers::build_missing(&options.servers)?;
    let status = servers::runtime()?.block_on(async {
        let servers = Servers::start(&options.servers).await?;
        attend(command(options, &servers).await?).await
    })?;
    // A shell's number for a command that a signal has ended.
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

async fn command(options: &Options, servers: &Servers) -> Result<Command> {
    let [program, arguments @ ..] = options.command.as_slice() else {
        anyhow::bail!("there is no command");
    };
    let mut command = std::process::Command::new(program);
    workspace::without_own_variables(&mut command).args(arguments).envs(servers.variables());
    // Of several stores or brokers the one named first is the one.
    for (server, url) in servers.urls(DATABASE).await?.into_iter().rev() {
        command.envs(server.variables().map(|name| (name, &url)));
    }
    Ok(command.into())
}

/// Runs it to its end. What the terminal sends has reached it as well; what was meant for us alone is
/// handed on.
async fn attend(mut command: Command) -> Result<ExitStatus> {
    let mut signals = Signals::new()?;
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            signal = signals.next() => {
                let only_ours = signal == SignalKind::terminate();
                if let Some(pid) = pid.filter(|_| only_ours) {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    fn code(servers: &[Server], script: &str) -> Result<ExitCode> {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        run(&Options { servers: servers.to_vec(), command })
    }

    #[test]
    fn the_command_finds_its_servers_and_decides_the_exit_code() -> Result<()> {
        let script = r#"
            [ "$ONEWRITE_STORE" = "$ONEWRITE_TEST_POSTGRES/onewrite" ] || exit 1
            [ "$ONEWRITE_BROKER" = "$ONEWRITE_TEST_NATS" ] || exit 2
            [ "$ONEWRITE_POSTGRES $ONEWRITE_NATS" = "$ONEWRITE_STORE $ONEWRITE_BROKER" ] || exit 3
            [ "$(psql -AtX "$ONEWRITE_STORE" -c 'SELECT 7')" = 7 ] || exit 4
            [ "$ONEWRITE_MARIADB" = "$ONEWRITE_TEST_MARIADB/onewrite" ] || exit 5
            [ "$ONEWRITE_REDIS" = "$ONEWRITE_TEST_REDIS" ] || exit 6
            [ "$ONEWRITE_RABBITMQ" = "$ONEWRITE_TEST_RABBITMQ" ] || exit 8
            [ "$ONEWRITE_KAFKA" = "${ONEWRITE_TEST_KAFKA%#*}" ] || exit 9
            exit 7"#;
        assert_eq!(code(servers::ALL, script)?, ExitCode::from(7));
        Ok(())
    }

    #[test]
    fn only_servers_that_are_named_are_started() -> Result<()> {
        let script = r#"[ -n "$ONEWRITE_NATS" ] && [ -z "$ONEWRITE_POSTGRES$ONEWRITE_STORE" ]"#;
        assert_eq!(code(&[Server::Nats], script)?, ExitCode::SUCCESS);
        assert_eq!(code(&[Server::Nats], "kill -KILL $$")?, ExitCode::from(137));
        Ok(())
    }

    #[test]
    fn an_unknown_server_is_refused_with_the_list_of_the_known() {
        let parser = Options::augment_args(clap::Command::new("with"));
        let words = ["with", "postgres,oracle", "--", "true"];
        let refused = parser.try_get_matches_from(words).unwrap_err().to_string();
        assert!(
            refused.contains("oracle")
                && refused.contains("postgres, mariadb, nats, rabbitmq, redis, kafka"),
            "{refused}"
        );
    }
}
