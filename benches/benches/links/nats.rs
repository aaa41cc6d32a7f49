//! NATS with JetStream beside ours: leaf nodes, each stream taken from the neighbour's. A client of a few verbs, enough
//! to fill a stream and to time an echo.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tram_lab::{Both, End, Lab, Namespace, address};

use crate::bytes::Fresh;
use crate::peers::{Running, command, installed};

const CLIENTS: u16 = 4222;
const LEAVES: u16 = 7422;
/// Of its object store.
const MESSAGE_BYTES: usize = 128 * 1024;
/// 4 MiB.
const STORED_EACH: u64 = 32;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

fn fails(error: impl std::fmt::Display) -> String {
    format!("NATS: {error}")
}

/// Starts a server with a stream store; `towards` is the server it is a leaf of. Ports are counted up by `number`.
fn server(
    space: Option<&Namespace>,
    folder: &Path,
    number: u16,
    leaves_at: Ipv4Addr,
    towards: Option<SocketAddr>,
) -> Result<Running, String> {
    let towards = towards.map(|at| format!("remotes: [{{ url: \"nats-leaf://{at}\" }}]")).unwrap_or_default();
    let config = format!(
        "server_name: n{number}\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: \"{}\", domain: n{number}, max_file_store: 8GB }}\n\
         leafnodes {{ listen: \"{leaves_at}:{}\", {towards} }}\n",
        CLIENTS + number,
        folder.join(format!("n{number}")).display(),
        LEAVES + number
    );
    let path = folder.join(format!("n{number}.conf"));
    fs::write(&path, config).map_err(fails)?;
    Running::start(command(space, "nats-server").arg("-c").arg(&path))
}

struct Wire {
    read: BufReader<TcpStream>,
    write: TcpStream,
}

impl Wire {
    fn connect(space: Option<&Namespace>, number: u16) -> Result<Self, String> {
        let began = Instant::now();
        let open = || TcpStream::connect((Ipv4Addr::LOCALHOST, CLIENTS + number));
        let stream = loop {
            match space.map_or_else(|| Ok(open()), |space| space.inside(open))? {
                Ok(stream) => break stream,
                Err(error) if began.elapsed() > PATIENCE => return Err(fails(error)),
                Err(_) => thread::sleep(LOOK),
            }
        };
        stream.set_nodelay(true).map_err(fails)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(fails)?;
        let mut wire = Self { write: stream.try_clone().map_err(fails)?, read: BufReader::new(stream) };
        wire.say(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n")?;
        Ok(wire)
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.write.write_all(bytes).map_err(fails)
    }

    fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) -> Result<(), String> {
        let mut message = format!("PUB {subject} {reply} {}\r\n", payload.len()).into_bytes();
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        self.say(&message)
    }

    fn subscribe(&mut self, subject: &str) -> Result<(), String> {
        self.say(format!("SUB {subject} 1\r\nPING\r\n").as_bytes())?;
        // What it answers to PING comes after it has taken the subscription.
        let mut line = String::new();
        while !line.starts_with("PONG") {
            line.clear();
            if self.read.read_line(&mut line).map_err(fails)? == 0 {
                return Err(fails("the server closed the connection"));
            }
        }
        Ok(())
    }

    /// The next message: where to answer, and the payload.
    fn next(&mut self) -> Result<(String, Vec<u8>), String> {
        loop {
            let mut line = String::new();
            if self.read.read_line(&mut line).map_err(fails)? == 0 {
                return Err(fails("the server closed the connection"));
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["PING"] => self.say(b"PONG\r\n")?,
                ["-ERR", ..] => return Err(fails(line.trim())),
                ["MSG", _, _, rest @ .., length] => {
                    let mut payload = vec![0; length.parse::<usize>().map_err(fails)? + 2];
                    self.read.read_exact(&mut payload).map_err(fails)?;
                    payload.truncate(payload.len() - 2);
                    return Ok((rest.first().copied().unwrap_or_default().to_owned(), payload));
                }
                _ => {}
            }
        }
    }

    /// Asks JetStream, in a connection of its own; an error it answers with is one.
    fn ask(space: Option<&Namespace>, number: u16, subject: &str, body: &str) -> Result<String, String> {
        let mut wire = Self::connect(space, number)?;
        wire.subscribe("answer.here")?;
        wire.publish(subject, "answer.here", body.as_bytes())?;
        let (_, answer) = wire.next()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if answer.contains("\"error\"") { Err(fails(answer)) } else { Ok(answer) }
    }
}

/// A stream at `number` that takes what is published, or what the stream of the neighbour before it holds.
fn stream(space: Option<&Namespace>, number: u16, source: Option<u16>) -> Result<(), String> {
    let from = source.map_or_else(
        || "\"subjects\":[\"bulk\"]".to_owned(),
        |source| format!("\"sources\":[{{\"name\":\"S{source}\",\"external\":{{\"api\":\"$JS.n{source}.API\"}}}}]"),
    );
    let config = format!("{{\"name\":\"S{number}\",\"storage\":\"file\",{from}}}");
    let began = Instant::now();
    // The store is ready a little after the port.
    loop {
        match Wire::ask(space, number, &format!("$JS.API.STREAM.CREATE.S{number}"), &config) {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE / 10 => return Err(error),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn messages(space: Option<&Namespace>, number: u16) -> Result<u64, String> {
    let answer = Wire::ask(space, number, &format!("$JS.API.STREAM.INFO.S{number}"), "")?;
    let after = answer.split("\"messages\":").nth(1).unwrap_or_default();
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(fails)
}

fn fill(space: Option<&Namespace>, number: u16, bytes: u64) -> Result<u64, String> {
    let mut wire = Wire::connect(space, number)?;
    let (mut fresh, mut payload) = (Fresh::new(bytes), vec![0; MESSAGE_BYTES]);
    let count = bytes / MESSAGE_BYTES as u64;
    wire.subscribe("stored")?;
    for number in 1..=count {
        fresh.read_exact(&mut payload).map_err(fails)?;
        // The store drops without a word what comes faster than it writes, so now and then its word is waited for.
        let asks = number % STORED_EACH == 0;
        wire.publish("bulk", if asks { "stored" } else { "" }, &payload)?;
        if asks {
            wire.next()?;
        }
    }
    Ok(count)
}

/// 1 GiB from a stream at A by way of B to a stream at C, stored at each without an fsync.
pub(crate) fn two_hops(bytes: u64) -> Result<f64, String> {
    installed(&["nats-server"])?;
    let folder = tempfile::tempdir().map_err(fails)?;
    let here = Ipv4Addr::LOCALHOST;
    let towards = |number: u16| Some(SocketAddr::from((here, LEAVES + number)));
    let _servers = (
        server(None, folder.path(), 2, here, None)?,
        server(None, folder.path(), 1, here, towards(2))?,
        server(None, folder.path(), 0, here, towards(1))?,
    );
    stream(None, 0, None)?;
    stream(None, 1, Some(0))?;
    stream(None, 2, Some(1))?;
    let began = Instant::now();
    let count = fill(None, 0, bytes)?;
    while messages(None, 2)? < count {
        if began.elapsed() > PATIENCE {
            let there = [0, 1, 2].map(|number| messages(None, number).unwrap_or(0));
            return Err(fails(format!("of {count} messages {there:?} arrived")));
        }
        thread::sleep(LOOK);
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Round trips in milliseconds, and the line's share while they were made.
pub(crate) fn urgent(
    line: Both,
    bulk_bytes: u64,
    message_bytes: usize,
    every: Duration,
    samples: usize,
    ramp: Duration,
    patience: Duration,
) -> Result<(Vec<f64>, f64), String> {
    installed(&["nats-server"])?;
    let folder = tempfile::tempdir().map_err(fails)?;
    let lab = Lab::chain(&[line], 1)?;
    let (near, far) = (Some(lab.space(0)), Some(lab.space(1)));
    let right = address(0, End::Right);
    let _servers = (
        server(far, folder.path(), 1, right, None)?,
        server(near, folder.path(), 0, address(0, End::Left), Some((right, LEAVES + 1).into()))?,
    );
    stream(near, 0, None)?;
    let mut echo = Wire::connect(far, 1)?;
    echo.subscribe("urgent")?;
    thread::spawn(move || {
        while let Ok((reply, _)) = echo.next() {
            if echo.publish(&reply, "", b"1").is_err() {
                return;
            }
        }
    });
    if bulk_bytes > 0 {
        fill(near, 0, bulk_bytes)?;
        stream(far, 1, Some(0))?;
    }
    thread::sleep(ramp);
    let mut asks = Wire::connect(near, 0)?;
    let mut hears = Wire::connect(near, 0)?;
    hears.subscribe("back.*")?;
    hears.read.get_ref().set_read_timeout(Some(patience)).map_err(fails)?;
    let (before, began) = (lab.line(0).counts(End::Left), Instant::now());
    let sender = thread::spawn(move || {
        for number in 0..samples {
            thread::sleep((began + every * number as u32).saturating_duration_since(Instant::now()));
            let mut message = vec![7; message_bytes];
            message[..4].copy_from_slice(&(number as u32).to_be_bytes());
            if asks.publish("urgent", &format!("back.{number}"), &message).is_err() {
                return;
            }
        }
        // Closing the connection would take the messages that wait with it.
        thread::sleep(patience);
    });
    let mut took = Vec::new();
    let ends = began + every * samples as u32 + patience;
    let mut bits = None;
    while took.len() < samples && Instant::now() < ends {
        let Some(number) = hears.heard() else { break };
        took.push((began + every * number).elapsed().as_secs_f64() * 1e3);
        if began.elapsed() >= every * samples as u32 && bits.is_none() {
            bits = Some((lab.line(0).counts(End::Left).since(before).delivered_bytes as f64 * 8.0, began.elapsed()));
        }
    }
    let now = || (lab.line(0).counts(End::Left).since(before).delivered_bytes as f64 * 8.0, began.elapsed());
    let (bits, over) = bits.unwrap_or_else(now);
    drop(sender);
    Ok((took, bits / over.as_secs_f64() / line.there.rate.mean() as f64))
}

impl Wire {
    /// The number in the subject of the next answer; `None` when none comes in time.
    fn heard(&mut self) -> Option<u32> {
        loop {
            let mut line = String::new();
            if self.read.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.starts_with("PING") {
                self.say(b"PONG\r\n").ok()?;
            }
            if let Some(rest) = line.strip_prefix("MSG back.") {
                let number = rest.split_whitespace().next()?.parse().ok()?;
                let mut payload = [0; 3];
                self.read.read_exact(&mut payload).ok()?;
                return Some(number);
            }
        }
    }
}
