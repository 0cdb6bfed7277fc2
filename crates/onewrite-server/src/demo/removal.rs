//! Taking away what a run made at servers, and naming what stays there.

use std::time::{Duration, Instant};

use onewrite::{Error, Result, error::Retry};

use crate::report;

/// What fails is tried again for so long: a server may be on its way back.
const TRIED_FOR: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// What a run leaves at servers.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// What a person types to be rid of it, one line for each thing.
    pub(crate) commands: Vec<String>,
    /// Why the first could not be removed; nothing where it stays on purpose.
    pub(crate) why: Option<Error>,
}

impl Rest {
    /// Both.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.commands.extend(other.commands);
        Self { commands: self.commands, why: self.why.or(other.why) }
    }

    /// Says what is left and how it is removed.
    pub(crate) fn tell(&self) {
        match &self.why {
            Some(error) => {
                report::print(error);
                report::tell!(
                    "not everything that the demo made could be removed; what is left goes with:"
                );
            }
            None if self.commands.is_empty() => return,
            None => report::tell!("kept at the servers; when you no longer need it:"),
        }
        for command in &self.commands {
            report::tell!("  {command}");
        }
    }
}

/// Removes each of `things`, whatever becomes of the others. What is left is named by its `command`.
pub(crate) async fn each<T>(
    things: &[T],
    remove: impl AsyncFn(&T) -> Result<()>,
    command: impl Fn(&T) -> String,
) -> Rest {
    let until = Instant::now() + TRIED_FOR;
    let mut rest = Rest::default();
    for thing in things {
        while let Err(error) = remove(thing).await {
            if error.retry() == Retry::Never || Instant::now() >= until {
                let why = Some(error);
                rest = rest.and(Rest { commands: vec![command(thing)], why });
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use onewrite::Code;

    use super::*;

    #[tokio::test]
    async fn every_thing_is_tried_and_what_is_left_is_named() {
        let attempts = Cell::new(0);
        let remove = async |thing: &&str| match *thing {
            "forbidden" => Err(Error::new(Code::InvalidConfig, "no")),
            "away" if attempts.replace(attempts.get() + 1) < 2 => {
                Err(Error::new(Code::StoreUnreachable, "not now"))
            }
            _ => Ok(()),
        };
        let rest =
            each(&["forbidden", "away", "there"], remove, |thing| format!("rm {thing}")).await;
        assert_eq!((rest.commands, attempts.get()), (vec!["rm forbidden".to_owned()], 3));
        assert_eq!(rest.why.map(|error| error.code()), Some(Code::InvalidConfig));
    }
}
