//! The decider's flags.

use std::net::SocketAddr;

use clap::Parser;
use laneguard_runtime::args::{CommonArgs, HasCommon, ProducerArgs};

/// Laneguard decider: samples to decisions by a control law, decisions to commands.
#[derive(Debug, Parser)]
#[command(name = "laneguard-decider", version)]
pub struct Args {
    /// What every process has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What every producer has.
    #[command(flatten)]
    pub producer: ProducerArgs,
    /// Where /livez, /readyz and /metrics are served
    #[arg(
        long,
        env = "ADMIN_ADDR",
        default_value = "127.0.0.1:8082",
        value_name = "ADDRESS"
    )]
    pub admin_addr: SocketAddr,
}

impl HasCommon for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }
}
