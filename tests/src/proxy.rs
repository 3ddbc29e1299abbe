//! A TCP relay in front of a server: a fixed address for a server that moves, and a cable to pull.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The relay. Ends with its connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// Where connections go; `None`: they are refused and existing ones cut.
    target: Arc<watch::Sender<Option<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port on loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let target = Arc::new(watch::Sender::new(Some(target)));
        let targets = Arc::clone(&target);
        let task = tokio::spawn(async move {
            // fails only when the machine is out of files; then connections hang, as behind a broken switch
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, targets.subscribe()));
            }
        });
        Ok(Self {
            address,
            target,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection and lets none through any more.
    pub fn cut(&self) {
        self.target.send_replace(None);
    }

    /// Leads new connections here.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn relay(mut client: TcpStream, mut targets: watch::Receiver<Option<SocketAddr>>) {
    let Some(target) = *targets.borrow_and_update() else {
        return;
    };
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        // whoever ended the connection: both ends see it end
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = targets.changed() => {}
    }
}
