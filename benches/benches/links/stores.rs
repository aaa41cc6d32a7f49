//! NNCP and Syncthing on P5: one file over two hops of loopback, from a file at A to the whole file at C, as these
//! programs do it when they are told at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::peers::{Running, installed, run};

const NODES: [&str; 3] = ["A", "B", "C"];
const NNCP_PORT: u16 = 5400;
const SYNCTHING_PORT: u16 = 22_000;
const NNCP_KEYS: [&str; 7] = ["id", "exchpub", "exchprv", "signpub", "signprv", "noisepub", "noiseprv"];
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(5);

fn fails(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What a command prints.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Packs, calls, tosses, calls, tosses: each step begins when the one before has ended.
pub(crate) fn nncp(source: &Path) -> Result<f64, String> {
    installed(&["nncp-cfgnew", "nncp-file", "nncp-call", "nncp-daemon", "nncp-toss"])?;
    let folder = tempfile::tempdir().map_err(fails)?;
    let path = |name: &str| folder.path().join(name);
    let mut keys: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for node in NODES {
        let made = said(Command::new("nncp-cfgnew").arg("-nocomments"))?;
        let find = |key: &'static str| {
            let line = made.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'));
            let value = line.map(|value| value.trim().trim_matches(['"', ',']).to_owned());
            value.map(|value| (key, value)).ok_or_else(|| format!("nncp-cfgnew made no {key}"))
        };
        keys.insert(node, NNCP_KEYS.into_iter().map(find).collect::<Result<_, _>>()?);
    }
    let listed = |node: &str, with: fn(&str) -> bool| {
        let pairs = keys[node].iter().filter(|(key, _)| with(key));
        pairs.map(|(key, value)| format!("\"{key}\":\"{value}\"")).collect::<Vec<_>>().join(",")
    };
    for (number, node) in NODES.into_iter().enumerate() {
        let public = |key: &str| !key.ends_with("prv");
        let neighbours = NODES.into_iter().enumerate().map(|(place, other)| {
            let name = if other == node { "self" } else { other };
            let via = if place.abs_diff(number) == 2 { ",\"via\":[\"B\"]" } else { "" };
            let port = NNCP_PORT + place as u16;
            format!(
                "\"{name}\":{{{},\"incoming\":\"{}\",\"addrs\":{{\"lan\":\"127.0.0.1:{port}\"}}{via}}}",
                listed(other, public),
                path(&format!("{node}.in")).display()
            )
        });
        let config = format!(
            "{{\"spool\":\"{spool}\",\"log\":\"{spool}/log\",\"self\":{{{}}},\"neigh\":{{{}}}}}",
            listed(node, |_| true),
            neighbours.collect::<Vec<_>>().join(","),
            spool = path(&format!("{node}.spool")).display(),
        );
        fs::create_dir(path(&format!("{node}.spool"))).map_err(fails)?;
        fs::create_dir(path(&format!("{node}.in"))).map_err(fails)?;
        fs::write(path(node), config).map_err(fails)?;
    }
    let command = |program: &str, node: &str| {
        let mut command = Command::new(program);
        command.arg("-cfg").arg(path(node)).args(["-quiet"]);
        command
    };
    let daemon = |place: u16, node: &str| {
        Running::start(command("nncp-daemon", node).args(["-bind", &format!("127.0.0.1:{}", NNCP_PORT + place)]))
    };
    let _daemons = (daemon(1, "B")?, daemon(2, "C")?);
    // They have no other sign of being ready.
    for place in 1..=2 {
        await_port(NNCP_PORT + place)?;
    }
    let began = Instant::now();
    run(command("nncp-file", "A").arg(source).arg("C:document"))?;
    run(command("nncp-call", "A").args(["-onlinedeadline", "1", "B"]))?;
    run(&mut command("nncp-toss", "B"))?;
    run(command("nncp-call", "B").args(["-onlinedeadline", "1", "C"]))?;
    run(&mut command("nncp-toss", "C"))?;
    let took = began.elapsed().as_secs_f64();
    whole(&path("C.in").join("document"), source)?;
    Ok(took)
}

fn await_port(port: u16) -> Result<(), String> {
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if began.elapsed() > PATIENCE {
            return Err(format!("nothing listens on port {port}"));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn whole(there: &Path, source: &Path) -> Result<(), String> {
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let (there, wanted) = (bytes(there), bytes(source));
    if there == wanted { Ok(()) } else { Err(format!("{there} of {wanted} bytes arrived")) }
}

/// B and C run; the clock starts with A's daemon, which finds the file when it starts.
pub(crate) fn syncthing(source: &Path) -> Result<f64, String> {
    installed(&["syncthing"])?;
    let folder = tempfile::tempdir().map_err(fails)?;
    let home = |node: &str| folder.path().join(node);
    let shared = |node: &str| folder.path().join(format!("{node}.folder"));
    let mut ids = Vec::new();
    for node in NODES {
        let option = format!("--home={}", home(node).display());
        run(Command::new("syncthing").args(["generate", &option, "--no-default-folder", "--skip-port-probing"]))?;
        ids.push(said(Command::new("syncthing").args(["--device-id", &option]))?.trim().to_owned());
        fs::create_dir_all(shared(node).join(".stfolder")).map_err(fails)?;
    }
    for (number, node) in NODES.into_iter().enumerate() {
        let known = || ids.iter().enumerate().filter(|(place, _)| place.abs_diff(number) <= 1);
        let devices: String = known()
            .map(|(place, id)| {
                let port = SYNCTHING_PORT + place as u16;
                format!("<device id=\"{id}\" compression=\"never\"><address>tcp://127.0.0.1:{port}</address></device>")
            })
            .collect();
        let members: String = known().map(|(_, id)| format!("<device id=\"{id}\"></device>")).collect();
        let off = ["globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled", "startBrowser"];
        let off: String = off.map(|option| format!("<{option}>false</{option}>")).concat();
        let config = format!(
            "<configuration version=\"36\"><folder id=\"f\" path=\"{}\" type=\"sendreceive\" rescanIntervalS=\"3600\" \
             fsWatcherEnabled=\"false\">{members}</folder>{devices}<gui enabled=\"false\"></gui><options>\
             <listenAddress>tcp://127.0.0.1:{}</listenAddress>{off}<reconnectionIntervalS>1</reconnectionIntervalS>\
             <urAccepted>-1</urAccepted><crashReportingEnabled>false</crashReportingEnabled></options></configuration>",
            shared(node).display(),
            SYNCTHING_PORT + number as u16
        );
        fs::write(home(node).join("config.xml"), config).map_err(fails)?;
    }
    let start = |node: &str| {
        let option = format!("--home={}", home(node).display());
        let mut command = Command::new("syncthing");
        Running::start(
            command
                .args(["serve", "--no-browser", "--no-restart", &option])
                .env("STNOUPGRADE", "1")
                .env("STMONITORED", "1"),
        )
    };
    let _running = (start("B")?, start("C")?);
    for place in 1..=2 {
        await_port(SYNCTHING_PORT + place)?;
    }
    let file: PathBuf = shared("A").join("document");
    fs::hard_link(source, &file).or_else(|_| fs::copy(source, &file).map(drop)).map_err(fails)?;
    let began = Instant::now();
    let _first = start("A")?;
    let there = shared("C").join("document");
    // It gets its name when it is whole.
    while !there.exists() {
        if began.elapsed() > PATIENCE {
            return Err("the file did not arrive".to_owned());
        }
        thread::sleep(LOOK);
    }
    let took = began.elapsed().as_secs_f64();
    whole(&there, source)?;
    Ok(took)
}
