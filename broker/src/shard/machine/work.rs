//! What openraft's worker is about to do with a machine, and the end of it.
//!
//! openraft stops a group without its worker: that one goes on with what it has begun, and is gone
//! some time later. A checkpoint that is taken over may take hours, and for ever where nobody has
//! the records that it names. Whoever removes, closes or opens anew what the machine stands on has
//! to know that nobody works on it any more.

use std::{io, sync::Arc};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// One piece of work after the other, until it is ended. Cheap to clone: all clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Work {
    is_over: CancellationToken,
    under_way: Arc<Mutex<()>>,
}

impl Work {
    /// Does something to its end, unless the group has been stopped.
    pub(super) async fn finish<T>(
        &self,
        piece: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let _one = self.under_way.lock().await;
        if self.is_over.is_cancelled() {
            return Err(over());
        }
        piece.await
    }

    /// Does something that is given up half-way when the group is stopped.
    pub(super) async fn go_on_with<T>(
        &self,
        piece: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let _one = self.under_way.lock().await;
        tokio::select! {
            biased;
            () = self.is_over.cancelled() => Err(over()),
            done = piece => done,
        }
    }

    /// Whether it was ended.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.is_cancelled()
    }

    /// Ends it: nothing is begun any more. Returns when nothing is under way.
    pub(in crate::shard) async fn end(&self) {
        self.is_over.cancel();
        drop(self.under_way.lock().await);
    }
}

fn over() -> io::Error {
    io::Error::other("the shard has stopped here")
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn what_would_take_for_ever_is_given_up_in_the_end_and_nothing_is_begun_after_it() {
        let work = Work::default();
        let going_on = tokio::spawn({
            let work = work.clone();
            async move { work.go_on_with(pending::<io::Result<()>>()).await }
        });
        while work.under_way.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        work.end().await;
        assert!(going_on.await.unwrap().is_err());
        assert!(work.go_on_with(ready(Ok(()))).await.is_err());
        assert!(work.finish(ready(Ok(()))).await.is_err());
    }

    #[tokio::test]
    async fn the_end_waits_for_what_is_finished() {
        let work = Work::default();
        let (go, may_go) = tokio::sync::oneshot::channel::<()>();
        let finishing = tokio::spawn({
            let work = work.clone();
            async move {
                let piece = async { may_go.await.map_err(io::Error::other) };
                work.finish(piece).await
            }
        });
        while work.under_way.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        let mut ending = std::pin::pin!(work.end());
        assert!(futures_util::poll!(&mut ending).is_pending());
        go.send(()).unwrap();
        ending.await;
        assert!(finishing.await.unwrap().is_ok());
    }
}
