//! A real API server for tests: etcd and kube-apiserver as child processes on free loopback ports, with everything they write in a
//! temporary folder. Nothing outlives the value, not even when this process is killed (where `setpriv` is there).
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use laneguard_lab_kube::real::{self, RealApiServer};
//!
//! if let Some(assets) = real::assets() {
//!     let server = RealApiServer::start(&assets).await?;
//!     println!("KUBECONFIG={}", server.kubeconfig().display());
//! }
//! # Ok(())
//! # }
//! ```

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, bail};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// Time a component may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(90);

/// The folder that `KUBEBUILDER_ASSETS` names, if it holds `etcd` and `kube-apiserver`.
#[must_use]
pub fn assets() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    ["etcd", "kube-apiserver"]
        .iter()
        .all(|binary| folder.join(binary).is_file())
        .then_some(folder)
}

/// A running etcd and kube-apiserver, with RBAC and one user in `system:masters`.
#[derive(Debug)]
pub struct RealApiServer {
    // Dropped in this order: processes end before their files go.
    keeper: Keeper,
    directory: TempDir,
    assets: PathBuf,
    url: String,
    kubeconfig: PathBuf,
}

impl RealApiServer {
    /// Starts both from the folder `assets` and waits until the API is ready.
    ///
    /// # Errors
    /// When a binary is missing, ends early (with the end of its log) or is not ready in 90 s.
    pub async fn start(assets: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("laneguard-apiserver-")
            .tempdir()
            .context("no temporary folder")?;
        let keeper = Keeper::new(directory.path());
        let etcd = start_etcd(&keeper, assets, directory.path()).await?;
        let (url, kubeconfig) = start_apiserver(&keeper, assets, directory.path(), &etcd).await?;
        Ok(Self {
            keeper,
            directory,
            assets: assets.to_owned(),
            url,
            kubeconfig,
        })
    }

    /// Adds kube-controller-manager and kube-scheduler from the same folder. Their leader locks are not waited for: they act a
    /// few seconds later.
    ///
    /// # Errors
    /// When one of them is missing or cannot be started.
    pub fn start_controllers(&self) -> anyhow::Result<()> {
        let key = self.directory.path().join("certs/apiserver.key");
        let mut manager = Command::new(self.assets.join("kube-controller-manager"));
        manager
            .arg(flag("kubeconfig", &self.kubeconfig))
            .arg(flag("service-account-private-key-file", &key))
            // Nobody renews node leases here, so it would take every node for dead.
            .arg("--controllers=*,-node-lifecycle-controller")
            .args(["--leader-elect=false", "--secure-port=0"]);
        self.keeper.spawn("kube-controller-manager", manager)?;
        let mut scheduler = Command::new(self.assets.join("kube-scheduler"));
        scheduler
            .arg(flag("kubeconfig", &self.kubeconfig))
            .args(["--leader-elect=false", "--secure-port=0"]);
        self.keeper.spawn("kube-scheduler", scheduler)
    }

    /// Whether the folder it was started from also has the control plane's other binaries.
    #[must_use]
    pub fn has_controllers(&self) -> bool {
        ["kube-controller-manager", "kube-scheduler"]
            .iter()
            .all(|binary| self.assets.join(binary).is_file())
    }

    /// A kubeconfig for the user in `system:masters`.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free loopback port")?;
    Ok(listener.local_addr()?.port())
}

async fn start_etcd(keeper: &Keeper, assets: &Path, directory: &Path) -> anyhow::Result<String> {
    let port = free_port()?;
    let url = format!("http://127.0.0.1:{port}");
    let mut etcd = Command::new(assets.join("etcd"));
    etcd.arg(flag("data-dir", &directory.join("etcd")))
        .arg(format!("--listen-client-urls={url}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg("--listen-peer-urls=http://127.0.0.1:0")
        .args(["--unsafe-no-fsync=true", "--log-level=warn"]);
    keeper.spawn("etcd", etcd)?;
    let deadline = Instant::now() + START_LIMIT;
    while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .is_err()
    {
        keeper.check(deadline)?;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(url)
}

async fn start_apiserver(
    keeper: &Keeper,
    assets: &Path,
    directory: &Path,
    etcd: &str,
) -> anyhow::Result<(String, PathBuf)> {
    let port = free_port()?;
    let certificates = directory.join("certs");
    let tokens = directory.join("tokens.csv");
    // Only this folder's owner can read it, and it is worth nothing outside this server.
    let token = crate::random::uid();
    std::fs::write(&tokens, format!("{token},admin,admin,system:masters\n"))?;
    let key = certificates.join("apiserver.key");
    let mut server = Command::new(assets.join("kube-apiserver"));
    server
        .arg(format!("--etcd-servers={etcd}"))
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
        .arg(format!("--secure-port={port}"))
        .arg(flag("cert-dir", &certificates))
        .arg(flag("token-auth-file", &tokens))
        // The serving key, which the server makes itself, also signs service account tokens.
        .arg(flag("service-account-key-file", &key))
        .arg(flag("service-account-signing-key-file", &key))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .args([
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            // Without controllers nobody makes the service accounts that it asks for.
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
        ]);
    keeper.spawn("kube-apiserver", server)?;
    let url = format!("https://127.0.0.1:{port}");
    let kubeconfig = directory.join("kubeconfig");
    let deadline = Instant::now() + START_LIMIT;
    loop {
        keeper.check(deadline)?;
        let authority = certificates.join("apiserver.crt");
        if authority.is_file() {
            std::fs::write(&kubeconfig, kubeconfig_text(&url, &authority, &token))?;
            if is_ready(&kubeconfig).await {
                return Ok((url, kubeconfig));
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn kubeconfig_text(url: &str, authority: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: real
  cluster:
    server: {url}
    certificate-authority: {authority}
users:
- name: admin
  user:
    token: {token}
contexts:
- name: real
  context:
    cluster: real
    user: admin
    namespace: default
current-context: real
",
        authority = authority.display()
    )
}

async fn is_ready(kubeconfig: &Path) -> bool {
    let probe = async {
        let config = kube::Config::from_custom_kubeconfig(
            Kubeconfig::read_from(kubeconfig)?,
            &KubeConfigOptions::default(),
        )
        .await?;
        let client = kube::Client::try_from(config)?;
        let request = Request::get("/readyz").body(Vec::new())?;
        anyhow::Ok(client.request_text(request).await?)
    };
    match timeout(Duration::from_secs(2), probe).await {
        Ok(Ok(answer)) => answer == "ok",
        Ok(Err(error)) => {
            tracing::trace!(%error, "not ready");
            false
        }
        Err(_) => false,
    }
}

enum Order {
    Spawn {
        name: &'static str,
        command: Box<Command>,
        started: mpsc::Sender<std::io::Result<()>>,
    },
    Check(mpsc::Sender<Option<String>>),
}

/// Owns child processes on a thread of its own: a parent-death signal is tied to the thread that spawned the child, and a
/// runtime's threads come and go.
#[derive(Debug)]
struct Keeper {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn new(directory: &Path) -> Self {
        let (orders, inbox) = mpsc::channel();
        let directory = directory.to_owned();
        let thread = std::thread::spawn(move || keep(&inbox, &directory));
        Self {
            orders: Some(orders),
            thread: Some(thread),
        }
    }

    fn order<T>(&self, order: impl FnOnce(mpsc::Sender<T>) -> Order) -> anyhow::Result<T> {
        let (sender, answer) = mpsc::channel();
        self.orders
            .as_ref()
            .and_then(|orders| orders.send(order(sender)).ok())
            .context("the process keeper is gone")?;
        answer.recv().context("the process keeper is gone")
    }

    fn spawn(&self, name: &'static str, command: Command) -> anyhow::Result<()> {
        let command = Box::new(command);
        self.order(|started| Order::Spawn {
            name,
            command,
            started,
        })?
        .with_context(|| format!("cannot start {name}"))
    }

    /// Fails when a process has ended or the time is over.
    fn check(&self, deadline: Instant) -> anyhow::Result<()> {
        if let Some(failure) = self.order(Order::Check)? {
            bail!("{failure}");
        }
        if Instant::now() >= deadline {
            bail!("not ready after {} s", START_LIMIT.as_secs());
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the process keeper panicked");
        }
    }
}

fn keep(inbox: &mpsc::Receiver<Order>, directory: &Path) {
    let mut children: Vec<(&'static str, Child)> = Vec::new();
    while let Ok(order) = inbox.recv() {
        match order {
            Order::Spawn {
                name,
                command,
                started,
            } => {
                let child = spawn(name, &command, directory);
                let result = child.map(|child| children.push((name, child)));
                // Nobody waits for the answer any more: then the end of orders follows.
                drop(started.send(result));
            }
            Order::Check(answer) => {
                let ended = children.iter_mut().find_map(|(name, child)| {
                    let status = child.try_wait().ok().flatten()?;
                    let log = std::fs::read_to_string(log(directory, name)).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                    Some(format!("{name} ended with {status}:\n{tail}"))
                });
                drop(answer.send(ended));
            }
        }
    }
    for (name, child) in children.iter_mut().rev() {
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            tracing::warn!(name, %error, "cannot end a process");
        }
    }
}

fn log(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.log"))
}

fn spawn(name: &str, command: &Command, directory: &Path) -> std::io::Result<Child> {
    let output = File::create(log(directory, name))?;
    let mut guarded = Command::new("setpriv");
    guarded
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    let start = |command: &mut Command| -> std::io::Result<Child> {
        command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
    };
    match start(&mut guarded) {
        // No setpriv: the process ends with its keeper, though not when this one is killed.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut plain = Command::new(command.get_program());
            plain.args(command.get_args());
            start(&mut plain)
        }
        other => other,
    }
}
