//! The Kubernetes API of a run: the stand-in, or a real API server that a kubeconfig leads to.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A reachable API.
pub struct Cluster {
    /// The lab's own client.
    pub client: Client,
    /// What goes into `KUBECONFIG`.
    pub kubeconfig: PathBuf,
    /// The stand-in's task; none with a real API server.
    stand_in: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Cluster {
    /// Connects to a real API server, or starts the stand-in with its kubeconfig in `folder`.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used, or nothing can be started.
    pub async fn open(kubeconfig: Option<&Path>, folder: &Path) -> anyhow::Result<Self> {
        let (kubeconfig, stand_in) = match kubeconfig {
            Some(given) => {
                let absolute = fs::canonicalize(given)
                    .with_context(|| format!("cannot read {}", given.display()))?;
                (absolute, None)
            }
            None => {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
                let url = format!("http://{}", listener.local_addr()?);
                let file = folder.join("kubeconfig");
                fs::write(&file, laneguard_lab_kube::kubeconfig(&url))
                    .with_context(|| format!("cannot write {}", file.display()))?;
                let cluster = laneguard_lab_kube::Cluster::new();
                let serving = laneguard_lab_kube::serve(listener, cluster, std::future::pending());
                (fs::canonicalize(file)?, Some(tokio::spawn(serving)))
            }
        };
        // kube's TLS needs a provider even where no TLS is spoken; somebody may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = Kubeconfig::read_from(&kubeconfig)
            .with_context(|| format!("{} is no kubeconfig", kubeconfig.display()))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Ok(Self {
            client: Client::try_from(config)?,
            kubeconfig,
            stand_in,
        })
    }

    /// Whether this is somebody's real API server, where the lab has to clean up.
    #[must_use]
    pub fn is_real(&self) -> bool {
        self.stand_in.is_none()
    }

    /// Finds out whether the API still serves.
    ///
    /// # Errors
    /// When the stand-in has ended.
    pub fn check(&self) -> anyhow::Result<()> {
        let ended = self.stand_in.as_ref().is_some_and(JoinHandle::is_finished);
        anyhow::ensure!(!ended, "the stand-in for the Kubernetes API ended");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(stand_in) = &self.stand_in {
            stand_in.abort();
        }
    }
}
