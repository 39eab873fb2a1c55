//! A UDP socket on the simulated network, as quinn wants it.

use std::{
    io,
    io::IoSliceMut,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use flumen_transport::quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use crate::network::{Datagram, Network};

/// A socket; closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) network: Network,
    pub(crate) address: SocketAddr,
    /// Tells it from an earlier one on the same address.
    pub(crate) binding: u64,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.network.close(self.address, self.binding);
    }
}

/// There is always room for what is sent.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        for contents in transmit.contents.chunks(size.max(1)) {
            self.network.send(Datagram {
                from: self.address,
                to: transmit.destination,
                ecn: transmit.ecn,
                contents: contents.into(),
            });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self
            .network
            .with_inbox(self.address, self.binding, |inbox| {
                let mut count = 0;
                for (buffer, meta) in buffers.iter_mut().zip(meta) {
                    let Some(datagram) = inbox.datagrams.pop_front() else {
                        break;
                    };
                    let len = datagram.contents.len().min(buffer.len());
                    buffer[..len].copy_from_slice(&datagram.contents[..len]);
                    *meta = RecvMeta {
                        addr: datagram.from,
                        len,
                        stride: len,
                        ecn: datagram.ecn,
                        dst_ip: None,
                    };
                    count += 1;
                }
                if count == 0 {
                    inbox.waker = Some(context.waker().clone());
                }
                count
            });
        match received {
            // The host has died under it, and its tasks with it.
            None | Some(0) => Poll::Pending,
            Some(count) => Poll::Ready(Ok(count)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
