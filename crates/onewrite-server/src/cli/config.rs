//! `onewrite config --effective`.

use std::path::PathBuf;

use clap::Args;
use onewrite::{Code, Error, Result};

use crate::{config::Config, report};

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Show every setting in force, defaults included.
    #[arg(long, required = true)]
    effective: bool,
    /// The configuration file; onewrite.toml in this folder by default.
    #[arg(long, env = "ONEWRITE_CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    let (config, origins) = Config::load_with_origins(args.config.as_deref())?;
    let config = config.without_secrets();
    if !args.json {
        report::out(format_args!("{}", config.to_toml(&origins)?));
        return Ok(());
    }
    let mut value = serde_json::to_value(&config).map_err(|error| {
        Error::new(Code::InvalidConfig, "write the configuration").with_source(error)
    })?;
    value["origins"] = origins.iter().map(|(key, origin)| (key, origin.to_string())).collect();
    report::json(&value);
    Ok(())
}
