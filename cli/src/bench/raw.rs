//! Bare QUIC between two processes: the limit of everything that goes over it. The same
//! transport settings, TLS, one stream; nothing is parsed, kept or acknowledged but by QUIC.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use flumen_transport::{endpoint, tls, tuning};
use hdrhistogram::Histogram;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use super::{
    child::this_program,
    report::{histogram, record},
};

const ALPN: &[u8] = b"flumen-bench";

/// Streams that the peer serves at once.
const STREAMS_MAX: u32 = 1024;

/// How long round trips are counted.
const PINGS_TIME: Duration = Duration::from_millis(500);

/// Chunks taken from the connection at once.
const CHUNKS_PER_READ: usize = 64;

/// Bytes of the answer to a ping: those of an acknowledgement.
const PONG_BYTES: usize = 24;

/// What the first bytes of a stream ask the other end to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Task {
    /// Take everything, then send one byte.
    Take = 1,
    /// Send as many bytes as were asked for.
    Send = 2,
    /// Answer every message of the size that was given.
    Answer = 3,
}

/// Bytes of the order that opens a stream: task, total, size.
const ORDER_BYTES: usize = 17;

/// What the other end says of itself when it is ready.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    address: SocketAddr,
    ca: String,
}

/// The other end, as another process.
#[derive(Debug)]
pub(super) struct Peer {
    connection: Connection,
    hello: Hello,
    _endpoint: Endpoint,
    /// Ends when its standard input is closed.
    _process: Child,
}

impl Peer {
    /// Starts the other process and connects to it.
    pub(super) async fn start() -> Result<Self> {
        let mut process = this_program()?
            .args(["bench", "peer"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the other end of bare QUIC")?;
        let stdout = process.stdout.take().context("it has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        let hello: Hello =
            serde_json::from_str(&line).context("the other end of bare QUIC did not start")?;
        let (endpoint, connection) = connect(&hello).await?;
        Ok(Self {
            connection,
            hello,
            _endpoint: endpoint,
            _process: process,
        })
    }

    /// Sends `total` bytes in chunks of `size`; returns how long it takes until all are there.
    pub(super) async fn send(&self, total: u64, size: usize) -> Result<Duration> {
        let (mut send, mut recv) = self.open(Task::Take, total, size).await?;
        let started = Instant::now();
        send_all(&mut send, total, size).await?;
        send.finish()?;
        recv.read_exact(&mut [0]).await?;
        Ok(started.elapsed())
    }

    /// Receives `total` bytes that are sent in chunks of `size`; returns how long it takes.
    pub(super) async fn receive(&self, total: u64, size: usize) -> Result<Duration> {
        let started = Instant::now();
        let (_send, mut recv) = self.open(Task::Send, total, size).await?;
        let received = take_all(&mut recv).await?;
        if received != total {
            bail!("bare QUIC delivered {received} of {total} bytes");
        }
        Ok(started.elapsed())
    }

    /// Round trips of messages of `size`, one after the other.
    pub(super) async fn ping(&self, count: u64, size: usize) -> Result<Histogram<u64>> {
        let (mut send, mut recv) = self.open(Task::Answer, 0, size).await?;
        let message = Bytes::from(vec![0; size]);
        let mut latencies = histogram();
        for _ in 0..count {
            let started = Instant::now();
            send.write_chunk(message.clone()).await?;
            recv.read_exact(&mut [0; PONG_BYTES]).await?;
            record(&mut latencies, started.elapsed());
        }
        send.finish()?;
        Ok(latencies)
    }

    /// Round trips a second of messages of `size` when `callers` make them at the same time,
    /// each one after the other, over so many connections.
    pub(super) async fn pings(&self, callers: u32, connections: u32, size: usize) -> Result<f64> {
        let mut lines = Vec::new();
        for _ in 0..connections {
            lines.push(connect(&self.hello).await?);
        }
        let started = Instant::now();
        let mut tasks = Vec::new();
        for caller in 0..callers {
            let connection = lines[(caller % connections) as usize].1.clone();
            tasks.push(tokio::spawn(call_for(connection, size)));
        }
        let mut count = 0;
        for task in tasks {
            count += task.await??;
        }
        Ok(count as f64 / started.elapsed().as_secs_f64())
    }

    async fn open(&self, task: Task, total: u64, size: usize) -> Result<(SendStream, RecvStream)> {
        open(&self.connection, task, total, size).await
    }
}

/// Connects to the other end, from a socket of its own as every client has.
async fn connect(hello: &Hello) -> Result<(Endpoint, Connection)> {
    let crypto = tls::client_config(&hello.ca, None, ALPN)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(tuning::transport_config(0));
    let endpoint = endpoint::client(hello.address)?;
    let connection = endpoint
        .connect_with(config, hello.address, "localhost")?
        .await?;
    Ok((endpoint, connection))
}

async fn open(
    connection: &Connection,
    task: Task,
    total: u64,
    size: usize,
) -> Result<(SendStream, RecvStream)> {
    let (mut send, recv) = connection.open_bi().await?;
    let mut order = vec![task as u8];
    order.extend_from_slice(&total.to_le_bytes());
    order.extend_from_slice(&(size as u64).to_le_bytes());
    send.write_all(&order).await?;
    Ok((send, recv))
}

/// Makes round trips for [`PINGS_TIME`]; returns how many.
async fn call_for(connection: Connection, size: usize) -> Result<u64> {
    let (mut send, mut recv) = open(&connection, Task::Answer, 0, size).await?;
    let message = Bytes::from(vec![0; size]);
    let until = Instant::now() + PINGS_TIME;
    let mut count = 0;
    while Instant::now() < until {
        send.write_chunk(message.clone()).await?;
        recv.read_exact(&mut [0; PONG_BYTES]).await?;
        count += 1;
    }
    send.finish()?;
    Ok(count)
}

/// The other process: serves until its standard input ends.
pub(crate) async fn serve() -> Result<()> {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let ca = certificate.cert.pem();
    let identity = tls::Identity {
        cert_pem: &ca,
        key_pem: &certificate.signing_key.serialize_pem(),
    };
    let crypto = tls::server_config(identity, &ca, &[ALPN])?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(tuning::transport_config(STREAMS_MAX));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = endpoint::server(any, config)?;
    let hello = Hello {
        address: endpoint.local_addr()?,
        ca,
    };
    {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &hello)?;
        writeln!(out)?;
        out.flush()?;
    }
    std::thread::spawn(|| {
        // Ends with the process that started this one, whatever way that ends.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await?;
            loop {
                let (send, recv) = connection.accept_bi().await?;
                tokio::spawn(carry_out(send, recv));
            }
            #[allow(unreachable_code)]
            Ok::<(), quinn::ConnectionError>(())
        });
    }
    Ok(())
}

async fn carry_out(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let mut order = [0; ORDER_BYTES];
    recv.read_exact(&mut order).await?;
    let total = u64::from_le_bytes(order[1..9].try_into()?);
    let size = u64::from_le_bytes(order[9..].try_into()?) as usize;
    match order[0] {
        task if task == Task::Take as u8 => {
            take_all(&mut recv).await?;
            send.write_all(&[0]).await?;
        }
        task if task == Task::Send as u8 => send_all(&mut send, total, size).await?,
        task if task == Task::Answer as u8 => {
            let mut message = vec![0; size];
            while recv.read_exact(&mut message).await.is_ok() {
                send.write_all(&[0; PONG_BYTES]).await?;
            }
        }
        task => bail!("there is no task {task}"),
    }
    send.finish()?;
    // Dropped earlier, what was sent last might not arrive.
    let _ = send.stopped().await;
    Ok(())
}

async fn send_all(send: &mut SendStream, total: u64, size: usize) -> Result<()> {
    let chunk = Bytes::from(vec![0x5a; size]);
    let mut left = total;
    while left > 0 {
        let len = left.min(size as u64) as usize;
        send.write_chunk(chunk.slice(..len)).await?;
        left -= len as u64;
    }
    Ok(())
}

async fn take_all(recv: &mut RecvStream) -> Result<u64> {
    let mut received = 0;
    let mut chunks = [const { Bytes::new() }; CHUNKS_PER_READ];
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        received += chunks[..count]
            .iter()
            .map(|chunk| chunk.len() as u64)
            .sum::<u64>();
    }
    Ok(received)
}
