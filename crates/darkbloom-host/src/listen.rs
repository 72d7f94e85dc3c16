//! Serving HTTP from start to stop.

mod connection;

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use self::connection::Patience;

/// How long connections may take to close once nothing runs on them any more.
const CLOSE: Duration = Duration::from_secs(5);
/// Connections at once; more wait in the system's backlog. Four times the requests that a gateway works on. With the 64 KiB
/// that each may buffer in either direction half a gibibyte on HTTP/1; on HTTP/2, with 128 KiB of bodies and 512 KiB of
/// answers each, 2.5 GiB at the very worst.
const CONNECTIONS_MAX: usize = 4_096;
/// Files that a process needs beside the sockets of requests: its database, its log, its runtime.
const OTHER_FILES: usize = 64;
/// How long the listener rests when the system has no socket left to give.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

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

    /// Serves in the background: HTTP/1.1, and HTTP/2 to those who begin with it (RFC 9113 section 3.3). A stop first
    /// takes no new connections, then waits for `drain`, which must itself end within `drain_most`, and closes what is
    /// left.
    pub fn serve(self, app: Router, drain: impl Future<Output = ()> + Send + 'static, drain_most: Duration) -> Server {
        let connections_max = connections_max(open_files_max());
        if connections_max < CONNECTIONS_MAX {
            tracing::info!(connections_max, "the system's limit of open files allows no more connections");
        }
        self.serve_with(app, drain, drain_most, connections_max, Patience::default())
    }

    fn serve_with(
        self,
        app: Router,
        drain: impl Future<Output = ()> + Send + 'static,
        drain_most: Duration,
        connections_max: usize,
        patience: Patience,
    ) -> Server {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let (close, closing) = watch::channel(false);
            // Each connection's task holds a sender: when all are gone, the receiver ends.
            let (alive, mut over) = mpsc::channel::<()>(1);
            tokio::select! {
                () = accept(self.listener, app, connections_max, patience, closing, alive) => {}
                // An error means that the handle was dropped: stop as well.
                _ = stopped.wait_for(|stop| *stop) => {}
            }
            let last = async {
                drain.await;
                let _ = close.send(true);
                over.recv().await;
            };
            // A connection that never ends its request must not keep the process from ending. Dropping `close` then ends
            // the tasks that are left.
            if tokio::time::timeout(drain_most + CLOSE, last).await.is_err() {
                tracing::warn!("connections that did not end in time were dropped");
            }
        });
        Server { stop, task }
    }
}

/// How many connections may be taken by a process that may open so many files. A request that is passed on takes a second
/// socket, and whoever merely connects must not take those.
fn connections_max(open_files: Option<usize>) -> usize {
    let most = open_files.map_or(CONNECTIONS_MAX, |files| files.saturating_sub(OTHER_FILES) / 2);
    most.clamp(1, CONNECTIONS_MAX)
}

/// The limit of open files, where the system shows it.
fn open_files_max() -> Option<usize> {
    open_files_in(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// Reads it from what Linux shows (proc(5)): name, soft limit, hard limit, unit. `unlimited` is no number, and no limit.
fn open_files_in(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Takes connections as long as there is room for them. Dropping it closes the listening socket.
async fn accept(
    listener: TcpListener,
    app: Router,
    connections_max: usize,
    patience: Patience,
    closing: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        if places.available_permits() == 0 {
            tracing::warn!(connections_max, "no room for more connections; new ones wait");
        }
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The peer gave up before it was its turn.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
                ) =>
            {
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take connections for a moment");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        // Small frames must not wait for the acknowledgement of the one before (the 40 ms stall of Nagle's algorithm).
        if let Err(error) = stream.set_nodelay(true) {
            tracing::warn!(%error, "a socket refused TCP_NODELAY");
        }
        let served = connection::serve(stream, app.clone(), patience, closing.clone(), place);
        let alive = alive.clone();
        tokio::spawn(async move {
            served.await;
            drop(alive);
        });
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

#[cfg(test)]
mod tests;
