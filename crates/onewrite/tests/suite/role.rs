//! What this binary does when a test started it as a child process, to be killed.

use std::path::{Path, PathBuf};

use onewrite::{Shutdown, control, failpoint, sabotage::Sabotage};
use onewrite_testkit::child::READY;
use tokio::process::Command;

const ROLE: &str = "ONEWRITE_SUITE_ROLE";
const FOLDER: &str = "ONEWRITE_SUITE_FOLDER";
const POINT: &str = "ONEWRITE_SUITE_POINT";

/// The command that plays `role` in `folder`, with what is sabotaged there. With a failpoint, the
/// child ends there by SIGKILL.
pub(crate) fn command(
    role: &str,
    folder: &Path,
    sabotage: Sabotage,
    point: Option<&str>,
) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["role::a_child_plays_its_role", "--exact", "--nocapture"]);
    command.env(ROLE, role).env(FOLDER, folder).env("ONEWRITE_SABOTAGE", sabotage.to_env());
    command.env(POINT, point.unwrap_or_default());
    command
}

/// Tells the parent that the child is at work from now on.
pub(crate) fn ready() {
    println!("\n{READY}");
}

/// In the ordinary run there is no role, and nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_plays_its_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    control::listen(&Shutdown::default());
    let point = std::env::var(POINT).unwrap();
    if !point.is_empty() {
        failpoint::arm(&point, 1);
    }
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let sabotage = Sabotage::from_env();
    match role.as_str() {
        "i3" => crate::i3::child(&folder, sabotage).await,
        "i4" => crate::i4::child(&folder, sabotage).await,
        "saga" => crate::saga::child(&folder, sabotage, true, false).await,
        "saga-gated" => crate::saga::child(&folder, sabotage, true, true).await,
        "saga-without-keys" => crate::saga::child(&folder, sabotage, false, false).await,
        "saga-child" => crate::saga::parent_child(&folder, true).await,
        "saga-child-apart" => crate::saga::parent_child(&folder, false).await,
        "saga-told" => crate::saga::telling_child(&folder, false).await,
        "saga-told-apart" => crate::saga::telling_child(&folder, true).await,
        "saga-poison" => crate::saga::poisoned_child(&folder, sabotage).await,
        "saga-transfer" => crate::saga::transferring_child(&folder, true).await,
        "saga-transfer-apart" => crate::saga::transferring_child(&folder, false).await,
        "saga-waiting" => crate::saga::waiting_child(&folder).await,
        "saga-durable" => crate::saga::durable_child(&folder, sabotage).await,
        "s33" => crate::s33::child(&folder, sabotage).await,
        _ => panic!("there is no role `{role}`"),
    }
}
