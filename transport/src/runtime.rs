//! The runtime under quinn: tokio, with connections that gather before they send.

use std::{
    fmt,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

/// Tokio, where a connection that has something to send lets the tasks go first that are ready.
///
/// One group commit answers many produce streams at once. Each task that writes its answer wakes
/// the connection, and tokio runs what was woken last first: by itself, every answer would leave
/// in a packet of its own. A turn later, they share one.
#[derive(Debug)]
pub(crate) struct GatheringRuntime;

impl Runtime for GatheringRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, driver: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(Gathering {
            driver,
            waited: false,
        });
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A driver that goes to the end of the line once each time it is woken.
struct Gathering {
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    waited: bool,
}

impl Future for Gathering {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.waited {
            self.waited = true;
            // Woken while it runs, a task goes to the end of the queue.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        self.driver.as_mut().poll(context)
    }
}

impl fmt::Debug for Gathering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathering").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Barrier;

    use crate::stream::tests::pair;

    /// Tasks that answer at the same moment, each on a stream of its own.
    const STREAMS: u64 = 64;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_many_tasks_write_at_once_leaves_in_few_packets() {
        let pair = pair().await;
        let all_ready = Arc::new(Barrier::new(STREAMS as usize + 1));
        let mut tasks = Vec::new();
        for _ in 0..STREAMS {
            let (mut send, _receive) = pair.outgoing().open_bi().await.unwrap();
            let all_ready = Arc::clone(&all_ready);
            tasks.push(tokio::spawn(async move {
                all_ready.wait().await;
                send.write_all(b"an answer").await.unwrap();
                send
            }));
        }
        let before = pair.outgoing().stats().udp_tx.datagrams;
        all_ready.wait().await;
        for task in tasks {
            task.await.unwrap();
        }
        // The last to arrive shows that all have left.
        for _ in 0..STREAMS {
            let (_send, mut receive) = pair.incoming().accept_bi().await.unwrap();
            receive.read_exact(&mut [0; 9]).await.unwrap();
        }
        let packets = pair.outgoing().stats().udp_tx.datagrams - before;
        assert!(packets <= STREAMS / 4, "{packets} packets");
    }
}
