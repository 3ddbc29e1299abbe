//! The operator's command line: policies in the bucket, the decision stream, the hand brake, and decisions evaluated again.

pub mod args;
mod brake;
mod compare;
mod explain;
mod file;
mod name;
mod object;
mod output;
mod policy;
mod record;
mod recording;
mod replay;
mod verify;
mod watch;
mod words;
mod yaml;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory;
use laneguard_proto::codec::Encoding;
use laneguard_proto::subject::Token;
use laneguard_runtime::bus::{Bus, Producer};
use laneguard_runtime::command_line::{self, EXIT_CONFIG};
use laneguard_runtime::{ConfigError, shutdown, telemetry};

use args::{Args, Command, Compare, Explain};

/// Parses the command line, does what it says, and gives the exit code: 0 as asked, 64 bad configuration, 1 otherwise.
pub fn run() -> ExitCode {
    let args: Args = match command_line::parse(command()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    // fails only when another provider was installed before, which is as good
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let telemetry = telemetry::init("lanectl", &args.common)?;
        let result = tokio::select! {
            result = act(&args) => result,
            // an interrupted command line has done what it could
            // a recording ends its file first
            _ = shutdown::signal(), if !matches!(args.command, Command::Record(_)) => Ok(()),
        };
        // spans are flushed over the network: not on a runtime thread
        let _ = tokio::task::spawn_blocking(move || telemetry.flush()).await;
        result
    });
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref::<ConfigError>() {
                Some(_) => ExitCode::from(EXIT_CONFIG),
                None => ExitCode::FAILURE,
            }
        }
    }
}

/// The command line as clap sees it: flags stand before or after the subcommand.
pub fn command() -> clap::Command {
    Args::command()
        .mut_args(|arg| arg.global(true))
        // what a service tells its log is noise on a terminal
        .mut_arg("log", |arg| arg.default_value("error,async_nats=off"))
}

async fn act(args: &Args) -> anyhow::Result<()> {
    // what needs no server is done, and found wrong, without one
    let policies = match &args.command {
        Command::Verify {
            file: Some(file), ..
        } => return verify::record(recording::open(file)?),
        Command::Explain(explain) if explain.file.is_some() => return explain_file(explain),
        Command::Replay(replay) => return replay::run(replay),
        Command::Compare(compare) if compare.file.is_some() => return compare_file(compare),
        Command::Policy(command) => policy::to_apply(command)?,
        _ => Vec::new(),
    };
    let (end, ended) = shutdown::channel();
    let producer = Producer {
        service: "lanectl",
        cluster: args.common.cluster.clone(),
        encoding: Encoding::default(),
    };
    let bus = Bus::connect_once(&args.common.nats, producer, ended).await?;
    let result = match &args.command {
        Command::Policy(command) => policy::run(&bus, command, policies).await,
        Command::Watch {
            policy,
            namespace,
            output,
            since,
        } => {
            let policy = policy
                .as_deref()
                .map(|policy| name::token(policy, namespace.as_deref()))
                .transpose()?;
            watch::run(&bus, policy.as_ref(), *output, *since).await
        }
        Command::Explain(explain) => {
            let policy = of_explain(explain)?.context("a policy is needed")?;
            explain::stream(
                &bus,
                &policy,
                explain.since,
                wanted(explain),
                explain.output,
            )
            .await
        }
        Command::Record(record) => {
            let named = record.policy.as_deref();
            let policy = named
                .map(|policy| name::token(policy, record.namespace.as_deref()))
                .transpose()?;
            record::run(
                &bus,
                policy.as_ref(),
                &record.output,
                record.since,
                record.length,
            )
            .await
        }
        // done above
        Command::Replay(_) => Ok(()),
        Command::Compare(compare) => {
            let token = name::token(&compare.named.policy, compare.named.namespace.as_deref())?;
            compare::stream(&bus, &token, compare.since, compare.output).await
        }
        Command::Release(named) => {
            let token = name::token(&named.policy, named.namespace.as_deref())?;
            brake::release(&bus, &token).await
        }
        Command::Resume(named) => {
            let token = name::token(&named.policy, named.namespace.as_deref())?;
            brake::resume(&bus, &token).await
        }
        Command::Verify { since, .. } => verify::stream(&bus, *since).await,
    };
    end.trigger();
    result
}

fn compare_file(args: &Compare) -> anyhow::Result<()> {
    let Some(file) = &args.file else {
        return Ok(());
    };
    let token = name::token(&args.named.policy, args.named.namespace.as_deref())?;
    compare::record(recording::open(file)?, &token, args.output)
        .with_context(|| file.display().to_string())
}

fn explain_file(args: &Explain) -> anyhow::Result<()> {
    let Some(file) = &args.file else {
        return Ok(());
    };
    let policy = of_explain(args)?;
    explain::record(
        recording::open(file)?,
        policy.as_ref(),
        wanted(args),
        args.output,
    )
    .with_context(|| file.display().to_string())
}

fn of_explain(args: &Explain) -> anyhow::Result<Option<Token>> {
    let named = args.policy.as_deref();
    named
        .map(|policy| name::token(policy, args.namespace.as_deref()))
        .transpose()
}

fn wanted(args: &Explain) -> explain::Wanted {
    match (args.at, args.sequence) {
        (Some(at_ms), _) => explain::Wanted::At(at_ms),
        (None, Some(sequence)) => explain::Wanted::Sequence(sequence),
        (None, None) => explain::Wanted::LastChange,
    }
}
