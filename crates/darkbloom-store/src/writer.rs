//! The one writer: a thread that owns the writing connection and commits jobs in groups.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::sql::Connection;

/// Jobs that may wait. At ten thousand jobs a second, a modest disk's pace, the last of them waits under half a second;
/// a caller beyond that is better told at once.
const QUEUE_MAX: usize = 4096;

/// Jobs in one transaction, so that the first of a group does not wait for more than a few milliseconds of others' work.
const GROUP_MAX: usize = 256;

/// A handle to the writer thread. Dropping it lets the thread finish what is queued, and waits for that.
pub(crate) struct Writer {
    queue: Option<SyncSender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `renewed` is called, on it, with a connection that was lost and made anew: others may have
    /// written meanwhile, and what was last committed may or may not be there.
    pub(crate) fn start(
        mut connection: Connection,
        thread_name: &str,
        renewed: impl Fn(&Connection) -> Result<(), StoreError> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || while run_group(&mut connection, &jobs, &renewed).is_some() {})?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Does `work` in a savepoint of the next group; when the group is committed, does `after` with the result and then
    /// returns it. `after` runs on the writer thread, in the order of the commits: it keeps caches in step. When `work`
    /// fails, what it wrote is undone and `after` is not called.
    pub(crate) async fn write_then<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = WriteJob { work: Some(work), result: None, after, reply };
        self.queue.as_ref().ok_or(StoreError::Closed)?.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }

    /// [`Writer::write_then`] with nothing to do afterwards.
    pub(crate) async fn write<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write_then(work, |_| {}).await
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already answered everybody with `Closed`.
            drop(thread.join());
        }
    }
}

trait Job: Send {
    /// Does the work within the open transaction and keeps its result.
    fn run(&mut self, connection: &Connection);

    /// Answers the caller, once it is known whether the transaction stands.
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

struct WriteJob<W, A, T, E> {
    work: Option<W>,
    result: Option<Result<T, E>>,
    after: A,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<W, A, T, E> Job for WriteJob<W, A, T, E>
where
    W: FnOnce(&Connection) -> Result<T, E> + Send,
    A: FnOnce(&T) + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn run(&mut self, connection: &Connection) {
        if let Some(work) = self.work.take() {
            self.result = Some(in_savepoint(connection, work));
        }
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (committed, self.result) {
            (Err(error), _) => Err(error.into()),
            (Ok(()), None) => Err(StoreError::Closed.into()),
            (Ok(()), Some(Err(error))) => Err(error),
            (Ok(()), Some(Ok(value))) => {
                (self.after)(&value);
                Ok(value)
            }
        };
        // A caller that has gone away wants no answer.
        drop(self.reply.send(answer));
    }
}

fn in_savepoint<T, E: From<StoreError>>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    connection.begin_job()?;
    match work(connection) {
        Ok(value) => {
            connection.keep_job()?;
            Ok(value)
        }
        Err(error) => {
            // A failure that made the database give the whole transaction up leaves no savepoint; `run_group` notices that.
            if !connection.transaction_is_gone() {
                connection.undo_job()?;
            }
            Err(error)
        }
    }
}

/// Waits for a job, runs it and what else is there in one transaction, commits, answers. `None` when no more can come.
fn run_group(
    connection: &mut Connection,
    jobs: &Receiver<Box<dyn Job>>,
    renewed: impl Fn(&Connection) -> Result<(), StoreError>,
) -> Option<()> {
    let first = jobs.recv().ok()?;
    let mut group = Vec::new();
    let mut outcome = begin(connection, renewed);
    let mut next = Some(first);
    while let Some(mut job) = next {
        if outcome.is_ok() {
            job.run(connection);
            // Full disks, failing ones and lost servers end the transaction, and with it the jobs before this one.
            if !connection.in_transaction() {
                outcome = Err(StoreError::Database { detail: "the transaction was rolled back".to_owned() });
            }
        }
        group.push(job);
        next = if outcome.is_ok() && group.len() < GROUP_MAX { jobs.try_recv().ok() } else { None };
    }
    if outcome.is_ok() {
        outcome = connection.commit();
    }
    if outcome.is_err() && !connection.transaction_is_gone() {
        // The failure that led here is the one to report.
        drop(connection.roll_back());
    }
    for job in group {
        job.finish(outcome.clone());
    }
    Some(())
}

/// Begins a group's transaction. As nothing was asked yet, a connection that turns out to be lost is made anew first.
fn begin(
    connection: &mut Connection,
    renewed: impl Fn(&Connection) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    match connection.begin() {
        Err(_) if connection.is_lost() => {
            connection.renew()?;
            renewed(connection)?;
            connection.begin()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn writer_with_table() -> (Writer, std::sync::Arc<Barrier>) {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT").unwrap();
        let writer = Writer::start(Connection::Sqlite(connection), "test", |_| Ok(())).unwrap();
        (writer, std::sync::Arc::new(Barrier::new(2)))
    }

    fn insert(n: i64) -> impl FnOnce(&Connection) -> Result<u64, StoreError> + Send {
        move |connection| connection.execute("INSERT INTO t VALUES (?1)", crate::sql::values![n])
    }

    async fn rows(writer: &Writer) -> i64 {
        writer
            .write(|connection| connection.only("SELECT count(*) FROM t", &[]))
            .await
            .map_err(|error: StoreError| error)
            .unwrap()
    }

    #[tokio::test]
    async fn a_failing_job_undoes_only_itself() {
        let (writer, barrier) = writer_with_table();
        let gate = barrier.clone();
        let wait = writer.write(move |_| {
            gate.wait();
            Ok::<_, StoreError>(())
        });
        // Polling in order queues all four before the gate opens, so they share one transaction.
        let half_done = writer.write(|connection| {
            insert(2)(connection)?;
            insert(1)(connection)
        });
        let open = async { barrier.wait() };
        let (_, first, failed, last, _) =
            tokio::join!(wait, writer.write(insert(1)), half_done, writer.write(insert(3)), open);
        assert_eq!((first, last), (Ok(1), Ok(1)));
        assert!(matches!(failed, Err(StoreError::Database { .. })), "{failed:?}");
        assert_eq!(rows(&writer).await, 2);
    }

    #[tokio::test]
    async fn a_lost_transaction_fails_the_jobs_before_it_and_none_after() {
        let (writer, barrier) = writer_with_table();
        let gate = barrier.clone();
        let wait = writer.write(move |connection| {
            gate.wait();
            insert(1)(connection)
        });
        let lose = writer.write(|connection| {
            connection.roll_back()?;
            Err::<(), _>(StoreError::Closed)
        });
        let open = async { barrier.wait() };
        let (before, lost, after, _) = tokio::join!(wait, lose, writer.write(insert(2)), open);
        assert!(matches!(before, Err(StoreError::Database { .. })), "{before:?}");
        assert!(matches!(lost, Err(StoreError::Database { .. })), "{lost:?}");
        assert_eq!(after, Ok(1));
        assert_eq!(rows(&writer).await, 1);
    }

    #[tokio::test]
    async fn a_full_queue_is_refused_at_once() {
        let (writer, barrier) = writer_with_table();
        let gate = barrier.clone();
        let wait = writer.write(move |_| {
            gate.wait();
            Ok::<_, StoreError>(())
        });
        let jobs: Vec<_> = (0..=QUEUE_MAX).map(|n| writer.write(insert(i64::try_from(n).unwrap()))).collect();
        let all = async {
            let (mut busy, mut waiting) = (0, Vec::new());
            for job in jobs {
                let mut job = Box::pin(job);
                match std::future::poll_fn(|context| std::task::Poll::Ready(job.as_mut().poll(context))).await {
                    std::task::Poll::Ready(Err(StoreError::Busy)) => busy += 1,
                    std::task::Poll::Ready(other) => panic!("{other:?}"),
                    std::task::Poll::Pending => waiting.push(job),
                }
            }
            barrier.wait();
            for job in waiting {
                assert_eq!(job.await, Ok(1));
            }
            busy
        };
        // The waiting job may or may not have left the queue when the last ones came.
        let (_, busy) = tokio::join!(wait, all);
        assert!((1..=2).contains(&busy), "{busy}");
    }

    #[tokio::test]
    async fn a_panicking_job_stops_the_store_instead_of_hanging_it() {
        let (writer, _) = writer_with_table();
        let result = writer.write(|_| -> Result<(), StoreError> { panic!("a fault of ours") }).await;
        assert_eq!(result, Err(StoreError::Closed));
        assert_eq!(writer.write(insert(1)).await, Err(StoreError::Closed));
    }
}
