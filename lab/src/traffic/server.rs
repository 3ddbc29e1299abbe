//! The critical service: answers every request with a body of fixed length.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::serve::ListenerExt;
use clap::Args;
use tokio::net::TcpListener;

// No doc comment here: it would replace the command's own description.
#[allow(missing_docs)]
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Length of each response's body in bytes.
    #[arg(long, default_value_t = 512)]
    pub response_bytes: usize,
}

/// Serves until the process is killed.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(args: ServerArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await?.tap_io(|connection| {
        // Only a socket that is closing already refuses.
        let _ = connection.set_nodelay(true);
    });
    let body = Bytes::from(vec![b'x'; args.response_bytes]);
    let service = Router::new().fallback(answer).with_state(body);
    Ok(axum::serve(listener, service).await?)
}

/// Reads the request to its end, as work on its content would, then answers.
async fn answer(State(body): State<Bytes>, _request: Bytes) -> Bytes {
    body
}
