//! Round trips beside the load: small UDP datagrams, echoed at the far end, at a fixed pace whatever comes back.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tram_lab::{End, Lab, address};

const PORT: u16 = 9;
const PATIENCE: Duration = Duration::from_millis(50);

/// Echoed datagrams: when each was sent, in seconds from the beginning, and its round trip in milliseconds.
pub(crate) type Trips = Vec<(f64, f64)>;

pub(crate) struct Ping {
    over: Arc<AtomicBool>,
    began: Instant,
    echo: Option<JoinHandle<()>>,
    pacer: Option<JoinHandle<BTreeMap<u32, f64>>>,
    reader: Option<JoinHandle<Vec<(u32, f64)>>>,
}

impl Ping {
    /// Over the first line, from the end where the load enters.
    pub(crate) fn start(lab: &Lab, from: End, every: Duration) -> Result<Self, String> {
        let to = if from == End::Left { End::Right } else { End::Left };
        let bind = |end: End, port: u16| {
            let at = SocketAddr::from((address(0, end), port));
            let socket = lab.space(usize::from(end == End::Right)).inside(|| UdpSocket::bind(at))?;
            let socket = socket.map_err(|error| format!("{at}: {error}"))?;
            socket.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
            Ok::<_, String>(socket)
        };
        let (near, far) = (bind(from, 0)?, bind(to, PORT)?);
        let sender = near.try_clone().map_err(|error| error.to_string())?;
        let (over, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let until = over.clone();
        let echo = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !until.load(Ordering::Relaxed) {
                if let Ok((length, from)) = far.recv_from(&mut buffer) {
                    // One that cannot be sent is lost, as on any line.
                    let _ = far.send_to(&buffer[..length], from);
                }
            }
        });
        let until = over.clone();
        let pacer = thread::spawn(move || {
            let mut sent = BTreeMap::new();
            for number in 0_u32.. {
                let due = began + every * number;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if until.load(Ordering::Relaxed) {
                    break;
                }
                sent.insert(number, began.elapsed().as_secs_f64());
                let _ = sender.send_to(&number.to_be_bytes(), (address(0, to), PORT));
            }
            sent
        });
        let until = over.clone();
        let reader = thread::spawn(move || {
            let (mut buffer, mut back) = ([0; 64], Vec::new());
            while !until.load(Ordering::Relaxed) {
                if let Ok(4) = near.recv(&mut buffer) {
                    let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                    back.push((number, began.elapsed().as_secs_f64()));
                }
            }
            back
        });
        Ok(Self { over, began, echo: Some(echo), pacer: Some(pacer), reader: Some(reader) })
    }

    /// Seconds since the first.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub(crate) fn stop(mut self) -> Trips {
        self.over.store(true, Ordering::Relaxed);
        let sent = self.pacer.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let back = self.reader.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        back.iter().filter_map(|(number, at)| sent.get(number).map(|sent| (*sent, (at - sent) * 1e3))).collect()
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(echo) = self.echo.take() {
            // It only echoes.
            let _ = echo.join();
        }
    }
}
