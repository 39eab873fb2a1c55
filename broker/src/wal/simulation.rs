//! The threads of the WAL as tasks, for simulations. Between a write and its sync lies virtual time,
//! in which the machine may crash.

use std::{mem, sync::Arc};

use super::{
    SyncPolicy,
    engine::{Engine, Written},
    space::{Step, Task},
};
use crate::{
    executor::{
        Running,
        simulation::{blocking_pause, start as start_task, sync_pause},
    },
    mutation::{Mutation, is_planted},
};

/// Starts all that the WAL runs on threads of their own otherwise; the writer first.
pub(super) fn start(engine: &Arc<Engine>) -> Vec<Running> {
    let mut running = vec![
        start_task(run_writer(Arc::clone(engine))),
        start_task(run_space(Arc::clone(engine))),
    ];
    if engine.options.sync != SyncPolicy::Always {
        running.push(start_task(run_syncer(Arc::clone(engine))));
    }
    running
}

async fn run_writer(engine: Arc<Engine>) {
    loop {
        let mut batch = Vec::new();
        {
            let mut queue = engine.queue.lock();
            if queue.handed_over || !queue.writing {
                if queue.closed && queue.is_empty() && engine.unfinished.lock().is_empty() {
                    return;
                }
                queue.handed_over = false;
                batch = queue.take();
                queue.writing = !batch.is_empty();
            }
        }
        let mut written = mem::take(&mut *engine.unfinished.lock());
        if batch.is_empty() && written.is_empty() {
            engine.work.rung().await;
            continue;
        }
        written.push(engine.write_unsynced(batch));
        sync_and_finish(&engine, written).await;
        engine.queue.lock().writing = false;
    }
}

async fn sync_and_finish(engine: &Engine, mut batches: Vec<Written>) {
    let sync = batches.iter().any(Written::wants_sync);
    if sync && !is_planted(Mutation::AckBeforeSync) {
        sync_pause().await;
        for written in batches.iter_mut().filter(|written| written.wants_sync()) {
            written.result = engine.sync_written();
        }
    }
    for written in batches {
        engine.finish(written);
    }
    if sync && is_planted(Mutation::AckBeforeSync) {
        sync_pause().await;
        drop(engine.sync_written());
    }
}

async fn run_space(engine: Arc<Engine>) {
    loop {
        match engine.space.prepare_step() {
            Step::Again => blocking_pause().await,
            Step::Wait => engine.space.work.rung().await,
            Step::WaitFor(time) => {
                // To try again is what both are for.
                let _ = tokio::time::timeout(time, engine.space.work.rung()).await;
            }
            Step::Task(Task::Recycle) => engine.recycle(),
            Step::Task(Task::Stop) => return,
        }
    }
}

async fn run_syncer(engine: Arc<Engine>) {
    let SyncPolicy::Every(interval) = engine.options.sync else {
        return;
    };
    loop {
        let (hurry, stopped) = {
            let mut syncer = engine.syncer.lock();
            (mem::take(&mut syncer.hurry), syncer.stopped)
        };
        if stopped {
            return;
        }
        if hurry {
            sync_pause().await;
            // A failure reaches everybody by `fail`.
            drop(engine.sync_written());
        } else if tokio::time::timeout(interval, engine.syncer_wakes.rung())
            .await
            .is_err()
        {
            engine.syncer.lock().hurry = true;
        }
    }
}

/// Writes what waits up to this operation: who waits for it would keep the writer from its turn.
/// The writer syncs it, and tells those who wait.
pub(super) fn write_until(engine: &Engine, number: u64) {
    loop {
        let batch = {
            let mut queue = engine.queue.lock();
            if queue.written >= number || queue.is_empty() {
                break;
            }
            queue.take()
        };
        let written = engine.write_unsynced(batch);
        if written.result.is_err() {
            // Nothing is written any more, and who waits for it is to hear that from the queue.
            engine.finish(written);
        } else {
            engine.unfinished.lock().push(written);
        }
    }
    engine.work.ring();
}

/// Does what the writer would have to do yet before it ends.
pub(super) fn finish(engine: &Engine) {
    write_until(engine, u64::MAX);
    let unfinished = mem::take(&mut *engine.unfinished.lock());
    for mut written in unfinished {
        if written.wants_sync() {
            written.result = engine.sync_written();
        }
        engine.finish(written);
    }
}

#[cfg(test)]
mod tests {
    use flumen_protocol::ids::ShardId;

    use super::super::{Wal, WalEntry, WalError, WalOptions};
    use super::*;
    use crate::{
        disk::{FaultPlan, SimulatedDisk},
        executor::simulation::{Latencies, enter},
    };

    #[tokio::test]
    async fn who_waits_for_a_write_that_fails_is_told_and_does_not_wait_for_the_writer() {
        enter(Latencies::default());
        let disk = SimulatedDisk::new();
        let options = WalOptions::new("/wal");
        let wal = Wal::open(Arc::new(disk.clone()), options, Arc::new(())).unwrap();
        let log = wal.shard(ShardId(1));
        disk.set_faults(FaultPlan {
            crash_in: Some(0),
            ..FaultPlan::default()
        });
        let entry = WalEntry {
            term: 1,
            index: 0,
            payload: vec![vec![7; 100].into()],
        };
        let (tx, rx) = std::sync::mpsc::channel();
        log.append(vec![entry], move |result| drop(tx.send(result)));
        // On the only thread there is: the writer's task has not had its turn.
        assert!(matches!(wal.sync(), Err(WalError::Failed { .. })));
        assert!(matches!(rx.try_recv(), Ok(Err(WalError::Failed { .. }))));
    }
}
