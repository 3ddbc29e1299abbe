//! Runs the lab in its own namespaces, so that everything it makes dies with it and nothing stays behind.
//!
//! The lab starts itself again through `unshare` in a new mount and PID namespace. Inside, the lab is process 1: when
//! it ends, however it ends, the kernel kills every process it started, and with them go the network namespaces
//! and the private `/run` where `ip netns` keeps its names. An ordinary user additionally gets a user namespace,
//! in which the kernel lets him configure networks of his own, and a network namespace for the control plane.

use std::env;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use nix::unistd::geteuid;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::tools;

/// Set for the inner lab; its value says which kind of isolation it got.
const INSIDE_ENV: &str = "LANEGUARD_LAB_INSIDE";
/// How long the inner lab may take to clean up after it was asked to stop.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Which rights the lab has on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Root: the control plane shares the machine's loopback.
    Root,
    /// An ordinary user: root only in a user namespace, and with its own loopback.
    User,
}

impl Rights {
    fn of_this_process() -> Self {
        if geteuid().is_root() {
            Self::Root
        } else {
            Self::User
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::User => "user",
        }
    }

    fn unshare_flags(self) -> &'static [&'static str] {
        match self {
            Self::Root => &[
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "--kill-child=KILL",
            ],
            Self::User => &[
                "--user",
                "--map-root-user",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "--kill-child=KILL",
            ],
        }
    }
}

/// Where this process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not isolated yet: call [`run_inside`].
    Outside,
    /// In the lab's own namespaces: call [`settle`], then work.
    Inside(Rights),
}

/// Tells whether this process is the outer or the inner lab.
#[must_use]
pub fn place() -> Place {
    match env::var(INSIDE_ENV).as_deref() {
        Ok("root") => Place::Inside(Rights::Root),
        Ok("user") => Place::Inside(Rights::User),
        _ => Place::Outside,
    }
}

/// Starts this program again, with the same arguments, inside new namespaces, and waits for its end.
///
/// SIGINT and SIGTERM ask the inner lab to stop; a second one kills it.
///
/// # Errors
/// When the kernel forbids the namespaces; the message says what forbids it and how to allow it.
pub async fn run_inside() -> anyhow::Result<ExitCode> {
    let rights = Rights::of_this_process();
    rehearse_with(rights).await?;
    let mut child = unshare(rights)?
        .arg(env::current_exe().context("this program's own path is unknown")?)
        .args(env::args_os().skip(1))
        .env(INSIDE_ENV, rights.word())
        // The inner lab stops when this pipe closes, whatever closes it.
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run setpriv and unshare")?;
    // Taken out, because waiting for the child would close it.
    let lifeline = child.stdin.take();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let code = tokio::select! {
        status = child.wait() => return Ok(exit_code(status?.code())),
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    };
    drop(lifeline);
    tokio::select! {
        ended = timeout(STOP_GRACE, child.wait()) => if ended.is_err() { kill_all(&mut child).await },
        _ = interrupt.recv() => kill_all(&mut child).await,
        _ = terminate.recv() => kill_all(&mut child).await,
    }
    Ok(ExitCode::from(code))
}

/// Prepares the inner lab's surroundings: a private `/run`, and loopback where the network namespace is new.
///
/// # Errors
/// When the kernel refuses, which [`run_inside`] has rehearsed.
pub async fn settle(rights: Rights) -> anyhow::Result<()> {
    // A resolver's file may live under /run; a real API server may have to be found by name.
    let resolver = fs::canonicalize("/etc/resolv.conf")
        .ok()
        .filter(|path| path.starts_with("/run"))
        .and_then(|path| fs::read(&path).ok().map(|content| (path, content)));
    succeed("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]).await?;
    if let Some((path, content)) = resolver
        && let Some(folder) = path.parent()
    {
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, content))
            .with_context(|| format!("cannot restore {}", path.display()))?;
    }
    if rights == Rights::User {
        succeed("ip", &["link", "set", "lo", "up"]).await?;
    }
    Ok(())
}

/// Waits until somebody wants the inner lab to stop: the outer lab (or its death), or a signal.
pub async fn stop_requested() {
    let outer_gone = async {
        match io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .and_then(pipe::Receiver::from_owned_fd)
        {
            // Nothing is ever written; the read ends when the outer lab closes its end or dies.
            Ok(mut outer) => drop(outer.read(&mut [0]).await),
            // Not started by the outer lab; signals remain.
            Err(_) => std::future::pending().await,
        }
    };
    let signalled = async {
        match (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) {
            (Ok(mut interrupt), Ok(mut terminate)) => {
                tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            }
            _ => std::future::pending().await,
        }
    };
    tokio::select! { () = outer_gone => (), () = signalled => () }
}

fn unshare(rights: Rights) -> anyhow::Result<Command> {
    let mut command = Command::new(tools::find("setpriv")?.path);
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(tools::find("unshare")?.path)
        .args(rights.unshare_flags())
        .arg("--")
        .kill_on_drop(true);
    Ok(command)
}

/// Does in small what the lab will do, to explain a refusal before anything has started.
///
/// # Errors
/// When the kernel forbids it; the message says what forbids it and how to allow it.
pub async fn rehearse() -> anyhow::Result<()> {
    rehearse_with(Rights::of_this_process()).await
}

async fn rehearse_with(rights: Rights) -> anyhow::Result<()> {
    let (mount, ip) = (tools::find("mount")?, tools::find("ip")?);
    tools::find("tc")?;
    tools::find("nsenter")?;
    let script = r#""$1" -t tmpfs tmpfs /run && "$2" netns add rehearsal && "$2" -n rehearsal link set lo up"#;
    let output = unshare(rights)?
        .args(["sh", "-c", script, "sh"])
        .args([&mount.path, &ip.path])
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run setpriv and unshare")?;
    anyhow::ensure!(
        output.status.success(),
        explain(
            rights,
            String::from_utf8_lossy(&output.stderr).trim(),
            |path| { fs::read_to_string(path).ok() }
        )
    );
    Ok(())
}

/// Says what keeps the kernel from making the namespaces, and what to do about it.
fn explain(rights: Rights, refusal: &str, read: impl Fn(&str) -> Option<String>) -> String {
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
    let reason = match rights {
        Rights::Root => {
            "this root may not make namespaces: it needs the capabilities SYS_ADMIN and NET_ADMIN. In a container \
             allow it with `--privileged` (or `--cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt \
             apparmor=unconfined --security-opt seccomp=unconfined`)"
        }
        Rights::User if is("/proc/sys/kernel/unprivileged_userns_clone", "0") => {
            "ordinary users may not make user namespaces here. Allow it with \
             `sudo sysctl kernel.unprivileged_userns_clone=1`, or run this with sudo"
        }
        Rights::User
            if is(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
            ) =>
        {
            "AppArmor takes the rights out of an ordinary user's namespaces here (Ubuntu since 24.04). Allow it with \
             `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run this with sudo"
        }
        Rights::User if is("/proc/sys/user/max_user_namespaces", "0") => {
            "user namespaces are switched off here. Allow them with `sudo sysctl user.max_user_namespaces=10000`, or \
             run this with sudo"
        }
        Rights::User => {
            "something forbids user namespaces here, most likely a container's seccomp profile. Run this with sudo, or \
             the container with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
        }
    };
    format!("the lab cannot isolate itself: {reason}. The kernel's answer: {refusal}")
}

async fn succeed(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(tools::find(program)?.path)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Kills `unshare`; the parent-death signal takes the inner lab along, and that every process in it.
async fn kill_all(child: &mut Child) {
    // Fails only for a process that has ended already.
    let _ = child.kill().await;
}

fn exit_code(code: Option<i32>) -> ExitCode {
    // No code: the inner lab was killed by a signal.
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(path: &'static str, value: &'static str) -> String {
        explain(Rights::User, "Operation not permitted", move |asked| {
            (asked == path).then(|| format!("{value}\n"))
        })
    }

    #[test]
    fn each_obstacle_is_named_with_the_command_that_removes_it() {
        for (path, value, remedy) in [
            (
                "/proc/sys/kernel/unprivileged_userns_clone",
                "0",
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (
                "/proc/sys/user/max_user_namespaces",
                "0",
                "user.max_user_namespaces=10000",
            ),
            ("/none", "", "seccomp=unconfined"),
        ] {
            let text = explained(path, value);
            assert!(text.contains(remedy), "{text}");
            assert!(text.contains("sudo"), "{text}");
            assert!(text.contains("Operation not permitted"), "{text}");
        }
    }

    #[test]
    fn a_setting_that_allows_namespaces_is_not_blamed() {
        let text = explained("/proc/sys/kernel/unprivileged_userns_clone", "1");
        assert!(!text.contains("unprivileged_userns_clone"), "{text}");
    }

    #[test]
    fn a_root_without_rights_is_told_how_to_start_its_container() {
        let text = explain(Rights::Root, "Operation not permitted", |_| None);
        assert!(text.contains("--privileged"), "{text}");
    }
}
