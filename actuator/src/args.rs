//! Flags, each with its environment twin.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use laneguard_proto::selector::LabelSelector;
use laneguard_runtime::args::{CommonArgs, HasCommon, ProducerArgs};

use crate::environment::Variables;

/// Everything Kubernetes in Laneguard: keeps the bandwidth annotations of best-effort pods equal to the limits that are commanded.
#[derive(Debug, Clone, Parser)]
#[command(name = "laneguard-actuator", version, about)]
pub struct Args {
    /// What every process has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// How messages are written.
    #[command(flatten)]
    pub producer: ProducerArgs,
    /// Where /livez, /readyz and /metrics are served
    #[arg(
        help_heading = "Process",
        long,
        env = "ADMIN_ADDR",
        default_value = "127.0.0.1:8083",
        value_name = "ADDRESS"
    )]
    pub admin_addr: SocketAddr,
    /// Kubernetes.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// The policy that the environment defines.
    #[command(flatten)]
    pub environment: Variables,
}

/// How Kubernetes is reached and what is done there.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Kubeconfig file, or several with colons [default: the pod's service account, else ~/.kube/config]
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace whose policies may act in other namespaces [default: the pod's own, else the kubeconfig context's]
    #[arg(long, env = "POLICY_NAMESPACE", value_name = "NAME")]
    pub policy_namespace: Option<String>,
    /// Pods that are never annotated, as a label selector
    #[arg(
        long,
        env = "CRITICAL_SELECTOR",
        default_value = "priority=critical",
        value_name = "SELECTOR"
    )]
    pub critical_selector: LabelSelector,
    /// Name of the Lease by which replicas elect the one that writes
    #[arg(
        long,
        env = "LEASE_NAME",
        default_value = "laneguard-actuator",
        value_name = "NAME"
    )]
    pub lease_name: String,
    /// Namespace of that Lease [default: the policy namespace]
    #[arg(long, env = "LEASE_NAMESPACE", value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// Patches of pods under way at once, 1 to 512
    #[arg(long, env = "WRITE_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=512), value_name = "COUNT")]
    pub write_concurrency: u16,
}

impl HasCommon for Args {
    fn common(&self) -> &CommonArgs {
        &self.common
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent_and_each_has_an_environment_twin() {
        Args::command().debug_assert();
        for flag in Args::command().get_arguments() {
            let name = flag.get_id().as_str();
            let own = ["help", "version"].contains(&name);
            assert!(
                own || flag.get_env().is_some(),
                "{name} has no environment twin"
            );
        }
    }
}
