//! Flags and their environment twins, with errors that fit one line and exit codes as promised.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, FromArgMatches};

/// Bad configuration, as in sysexits.h's EX_USAGE.
pub const EXIT_CONFIG: u8 = 64;

/// Parses the process's flags and environment. An environment variable that is set to nothing counts as unset, as manifests have them.
///
/// # Errors
/// With the exit code, after help or the reason was printed: 0 for help and version, 64 for bad configuration in one line that
/// names the flag, its environment variable and the reason.
pub fn parse<A: FromArgMatches>(command: Command) -> Result<A, ExitCode> {
    let command = command.mut_args(|arg| {
        let empty = arg
            .get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.is_empty());
        if empty { arg.env(None) } else { arg }
    });
    let known = command.clone();
    command
        .try_get_matches()
        .and_then(|matches| A::from_arg_matches(&matches))
        .map_err(|error| report(&error, &known))
}

fn report(error: &clap::Error, command: &Command) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // a closed pipe is the reader's choice
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(EXIT_CONFIG)
        }
        _ => {
            eprintln!("{}", line(error, command));
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// clap's message without usage and tips, which follow an empty line; and the environment variable, which may be where the value came from.
fn line(error: &clap::Error, command: &Command) -> String {
    let text = error.to_string();
    let what = text.split("\n\n").next().unwrap_or_default();
    let mut line = what.split_whitespace().collect::<Vec<_>>().join(" ");
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.split(' ').next(),
        _ => None,
    };
    let variable = argument
        .and_then(|argument| argument.strip_prefix("--"))
        .and_then(|long| command.get_arguments().find(|a| a.get_long() == Some(long)))
        .and_then(clap::Arg::get_env);
    if let Some(variable) = variable {
        line.push_str(&format!(" (environment: {})", variable.to_string_lossy()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn command() -> Command {
        Command::new("test").arg(
            Arg::new("format")
                .long("log-format")
                .env("LANEGUARD_TEST_LOG_FORMAT")
                .value_parser(["text", "json"]),
        )
    }

    #[test]
    fn a_bad_value_is_told_in_one_line_with_flag_variable_and_what_would_be_right() {
        let error = command()
            .try_get_matches_from(["test", "--log-format", "xml"])
            .unwrap_err();
        let line = line(&error, &command());
        for part in [
            "xml",
            "--log-format",
            "LANEGUARD_TEST_LOG_FORMAT",
            "text, json",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!line.contains('\n'));
    }
}
