//! The reader: a thread with its own connection, which sees what was last committed and never waits for a commit.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::sql::Connection;

/// Reads that may wait; a read takes some tens of microseconds, a large blob some tens of milliseconds.
const QUEUE_MAX: usize = 4096;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle to the reader thread. Dropping it waits for the reads that are queued.
pub(crate) struct Reader {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts the thread.
    pub(crate) fn start(mut connection: Connection, thread_name: &str) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel::<Job>(QUEUE_MAX);
        let thread = std::thread::Builder::new().name(thread_name.to_owned()).spawn(move || {
            for job in jobs {
                job(&mut connection);
            }
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Reads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        // A caller that has gone away wants no answer.
        let job: Job = Box::new(move |connection| drop(reply.send(read_once(connection, work))));
        self.queue.as_ref().ok_or(StoreError::Closed)?.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Reads as of one moment. On a server that is a transaction, whose beginning also tells whether it is still there.
fn read_once<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if matches!(connection, Connection::Sqlite(_)) {
        return work(connection);
    }
    if let Err(error) = connection.begin_reading() {
        if !connection.is_lost() {
            return Err(error);
        }
        connection.renew()?;
        connection.begin_reading()?;
    }
    let result = work(connection);
    if !connection.is_lost() {
        // Nothing was written. A failure of this alone shows when the next one begins.
        drop(connection.roll_back());
    }
    result
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already answered everybody with `Closed`.
            drop(thread.join());
        }
    }
}
