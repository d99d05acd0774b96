//! Where work runs that blocks, from outside.

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::thread;

/// A task that is given a thread of its own.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs work that blocks on the disk, where nobody else waits for it.
pub trait Workers: Send + Sync + fmt::Debug {
    /// Runs `work` soon, once, off the async threads.
    fn block(&self, work: Box<dyn FnOnce() + Send>);

    /// Gives `task` a thread of its own, on which it may block between its awaits, and tokio's time.
    fn dedicate(&self, name: &'static str, task: Task) -> io::Result<Dedicated>;
}

/// A task that has a thread. Dropping this leaves it to itself.
#[derive(Debug)]
pub struct Dedicated(Option<thread::JoinHandle<()>>);

impl Dedicated {
    /// A task that nobody can wait for: a simulator runs it on the thread of whoever would.
    #[must_use]
    pub fn detached() -> Self {
        Self(None)
    }

    /// Blocks until the task has ended. Panics as the task did, if it did.
    pub fn join(self) {
        if let Some(Err(panic)) = self.0.map(thread::JoinHandle::join) {
            resume_unwind(panic);
        }
    }
}

/// The operating system's threads. [`Workers::block`] needs a tokio runtime.
#[derive(Debug, Default, Clone, Copy)]
pub struct Threads;

impl Workers for Threads {
    fn block(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }

    fn dedicate(&self, name: &'static str, task: Task) -> io::Result<Dedicated> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = thread::Builder::new().name(name.to_owned());
        Ok(Dedicated(Some(thread.spawn(move || runtime.block_on(task))?)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_dedicated_task_has_time_and_a_thread_of_its_own() {
        let (sender, receiver) = mpsc::channel();
        let task = async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            sender.send(thread::current().name().map(str::to_owned)).unwrap();
        };
        Threads.dedicate("a-name", Box::pin(task)).unwrap().join();
        assert_eq!(receiver.recv().unwrap().as_deref(), Some("a-name"));
    }

    #[test]
    #[should_panic(expected = "the reason")]
    fn joining_panics_as_the_task_did() {
        Threads.dedicate("a-name", Box::pin(async { panic!("the reason") })).unwrap().join();
    }
}
