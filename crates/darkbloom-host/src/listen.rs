//! Serving HTTP from start to stop.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long connections may take to close once nothing runs on them any more.
const CLOSE: Duration = Duration::from_secs(5);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is reachable from outside and would carry keys in clear.
    #[error("{0} is reachable from other machines, and this program speaks plain HTTP")]
    PlaintextBeyondLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ListenError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::PlaintextBeyondLoopback(_) => "listen on 127.0.0.1 and put a TLS proxy in front",
            Self::Listen { .. } => "choose another address with `--listen`, or stop the program that uses this one",
        }
    }
}

/// A socket that listens and is not served yet.
#[derive(Debug)]
pub struct Bound {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Bound {
    /// Listens. Without TLS in front, only loopback addresses are taken.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn to(address: SocketAddr) -> Result<Self, ListenError> {
        loopback(address)?;
        let failed = |source| ListenError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(Self { address: listener.local_addr().map_err(failed)?, listener })
    }

    /// Serves in the background. A stop first takes no new connections, then waits for `drain`, which must itself end
    /// within `drain_most`, and closes what is left.
    pub fn serve(self, app: Router, drain: impl Future<Output = ()> + Send + 'static, drain_most: Duration) -> Server {
        // Small frames must not wait for the acknowledgement of the one before (the 40 ms stall of Nagle's algorithm).
        let listener = self.listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::warn!(%error, "a socket refused TCP_NODELAY");
            }
        });
        let (stop, mut stopped) = watch::channel(false);
        let mut late = stopped.clone();
        let overdue = async move {
            let _ = late.wait_for(|stop| *stop).await;
            tokio::time::sleep(drain_most + CLOSE).await;
        };
        let task = tokio::spawn(async move {
            let graceful = axum::serve(listener, app).with_graceful_shutdown(async move {
                // An error means that the handle was dropped: stop as well.
                let _ = stopped.wait_for(|stop| *stop).await;
                drain.await;
            });
            let graceful = graceful.into_future();
            tokio::pin!(graceful);
            // A connection that never ends its request must not keep the process from ending.
            tokio::select! {
                ended = &mut graceful => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the listener failed");
                    }
                }
                () = overdue => tracing::warn!("connections that did not end in time were dropped"),
            }
        });
        Server { stop, task }
    }
}

/// Refuses addresses that other machines can reach.
///
/// # Errors
/// [`ListenError::PlaintextBeyondLoopback`].
pub fn loopback(address: SocketAddr) -> Result<(), ListenError> {
    if address.ip().is_loopback() { Ok(()) } else { Err(ListenError::PlaintextBeyondLoopback(address)) }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Stops, and returns when it has.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the server's task failed");
        }
    }
}
