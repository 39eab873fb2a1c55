//! A wire between clients and a broker that can be cut: for whoever waits, that is how a killed
//! machine looks.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{net::UdpSocket, sync::watch};

/// Bytes of the largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

pub(super) struct Wire {
    /// Where clients find it.
    pub(super) address: SocketAddr,
    is_cut: watch::Sender<bool>,
}

impl Wire {
    pub(super) async fn to(broker: SocketAddr) -> Self {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = front.local_addr().unwrap();
        let is_cut = watch::channel(false).0;
        tokio::spawn(carry(Arc::new(front), broker, is_cut.subscribe()));
        Self { address, is_cut }
    }

    /// Lets nothing pass from now on, or lets all pass again.
    pub(super) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

async fn carry(front: Arc<UdpSocket>, broker: SocketAddr, is_cut: watch::Receiver<bool>) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    while let Ok((len, client)) = front.recv_from(&mut datagram).await {
        let known = backs.get(&client).cloned();
        let back = if let Some(back) = known {
            back
        } else {
            let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            back.connect(broker).await.unwrap();
            let back = Arc::new(back);
            backs.insert(client, Arc::clone(&back));
            let (front, is_cut) = (Arc::clone(&front), is_cut.clone());
            let back_of_client = Arc::clone(&back);
            tokio::spawn(async move {
                let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
                while let Ok(len) = back_of_client.recv(&mut datagram).await {
                    if !*is_cut.borrow() {
                        let _ = front.send_to(&datagram[..len], client).await;
                    }
                }
            });
            back
        };
        if !*is_cut.borrow() {
            let _ = back.send(&datagram[..len]).await;
        }
    }
}
