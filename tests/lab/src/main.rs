//! `lab run`: one line between two namespaces, and a command at each end.

use std::process::{Child, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use tram_lab::model::{Loss, Profile, Rate};
use tram_lab::{Both, End, IDLE_LEAST, Lab, Machine, spec};

const USAGE: &str = "usage: lab run [OPTION VALUE]... -- COMMAND...

Joins two network namespaces, 10.77.0.1 (near) and 10.77.0.2 (far), by a line. Runs COMMAND at the near end until it ends,
then says second by second what the line carried. Needs root.

  --rate 200mbit    bits of IP packets; 5mbit~50% varies by so much; default 100mbit
  --delay 50ms      each way; default 0
  --jitter 5ms      up to so much more, never out of order
  --loss 1%         of the packets, each way; 1%x8: in bursts of 8 on average
  --queue 100ms     what may wait, or 64kb; default 100ms
  --mtu 1280        longer packets vanish
  --back-rate, --back-delay, ...   the same from far to near, where it differs
  --cut 5s..25s     nothing passes in that time
  --far COMMAND     a shell command at the far end, stopped at the end
  --seed N          of the losses; default 1

Exit code: that of COMMAND; 64 usage; 69 no lab; 75 the machine was too busy, the run is void.";

const EXIT_USAGE: u8 = 64;
const EXIT_UNAVAILABLE: u8 = 69;
const EXIT_VOID: u8 = 75;

struct Wanted {
    both: Both,
    cut: Option<(Duration, Duration)>,
    far: Option<String>,
    seed: u64,
    command: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = match wanted(&arguments) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("lab: {error}\n\n{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(&wanted) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

fn wanted(arguments: &[String]) -> Result<Wanted, String> {
    let Some(("run", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) else {
        return Err("the first argument is run".to_owned());
    };
    let end = rest.iter().position(|argument| argument == "--").ok_or("-- COMMAND is missing")?;
    let (options, command) = (&rest[..end], rest[end + 1..].to_vec());
    if command.is_empty() {
        return Err("-- COMMAND is missing".to_owned());
    }
    let (pairs, []) = options.as_chunks::<2>() else { return Err("an option has no value".to_owned()) };
    let known = ["rate", "delay", "jitter", "loss", "queue", "mtu"];
    for [name, _] in pairs {
        let bare = name.strip_prefix("--").unwrap_or_default();
        let ours = known.contains(&bare.strip_prefix("back-").unwrap_or(bare))
            || ["--cut", "--far", "--seed"].contains(&name.as_str());
        if !ours {
            return Err(format!("{name} is no option"));
        }
    }
    let value = |name: &str| pairs.iter().find(|[given, _]| given == name).map(|[_, value]| value.as_str());
    let direction = |back: bool| {
        let of = |name: &str| value(&format!("--back-{name}")).filter(|_| back).or_else(|| value(&format!("--{name}")));
        let rate = of("rate").map_or(Ok(Rate::Fixed(100_000_000)), spec::rate)?;
        let delay_ns = of("delay").map_or(Ok(0), spec::time_ns)?;
        Ok::<_, String>(Profile {
            jitter_ns: of("jitter").map_or(Ok(0), spec::time_ns)?,
            loss: of("loss").map_or(Ok(Loss::Random(0.0)), spec::loss)?,
            queue_bytes: spec::queue_bytes(of("queue").unwrap_or("100ms"), rate)?,
            mtu: of("mtu")
                .map_or(Ok(usize::MAX), |mtu| mtu.parse().map_err(|_| format!("--mtu {mtu} is no number")))?,
            ..Profile::new(rate, delay_ns, 0)
        })
    };
    let cut = value("--cut").map(|cut| {
        let (from, to) = cut.split_once("..").ok_or("--cut 5s..25s")?;
        let (from, to) = (spec::time_ns(from)?, spec::time_ns(to)?);
        Ok::<_, String>((Duration::from_nanos(from), Duration::from_nanos(to.saturating_sub(from))))
    });
    Ok(Wanted {
        both: Both { there: direction(false)?, back: direction(true)? },
        cut: cut.transpose()?,
        far: value("--far").map(str::to_owned),
        seed: value("--seed").map_or(Ok(1), str::parse).map_err(|_| "--seed is no number")?,
        command,
    })
}

fn run(wanted: &Wanted) -> Result<u8, String> {
    let lab = Lab::chain(&[wanted.both], wanted.seed)?;
    let far = wanted.far.as_ref().map(|far| lab.space(1).command("sh").args(["-c", &format!("exec {far}")]).spawn());
    let mut far: Option<Child> = far.transpose().map_err(|error| format!("the command at the far end: {error}"))?;
    let machine = Machine::now();
    let mut near = lab.space(0).command(&wanted.command[0]);
    let mut near = near.args(&wanted.command[1..]).stdin(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let status = thread::scope(|scope| {
        if let Some((after, length)) = wanted.cut {
            let line = lab.line(0);
            // A command that ends earlier waits for the cut to be over.
            scope.spawn(move || {
                thread::sleep(after);
                line.cut(true);
                thread::sleep(length);
                line.cut(false);
            });
        }
        near.wait()
    });
    let status = status.map_err(|error| error.to_string())?;
    if let Some(far) = &mut far {
        // One that has ended by itself needs no signal.
        let _ = far.kill();
        let _ = far.wait();
    }
    let idle = machine.idle_since();
    report(&lab, idle);
    if idle < IDLE_LEAST {
        eprintln!("lab: void: the machine was idle for less than {:.0} % of the time", IDLE_LEAST * 100.0);
        return Ok(EXIT_VOID);
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn report(lab: &Lab, idle: f64) {
    let line = lab.line(0);
    println!(
        "{:>6}  {:>10} {:>8} {:>8}   {:>10} {:>8} {:>8}",
        "second", "Mbit/s", "dropped", "lost", "back", "dropped", "lost"
    );
    for (second, (there, back)) in line.seconds(End::Left).iter().zip(line.seconds(End::Right)).enumerate() {
        println!(
            "{second:>6}  {:>10.2} {:>8} {:>8}   {:>10.2} {:>8} {:>8}",
            there.delivered_bytes as f64 * 8e-6,
            there.dropped,
            there.lost,
            back.delivered_bytes as f64 * 8e-6,
            back.dropped,
            back.lost
        );
    }
    for (name, end) in [("there", End::Left), ("back", End::Right)] {
        println!("{name}: {:?}", line.counts(end));
    }
    let timing = line.timing();
    println!(
        "{} packets, {} of them more than 0.2 ms late, the latest {:.2} ms; machine idle {:.0} %",
        timing.packets,
        timing.late,
        timing.latest_ns as f64 / 1e6,
        idle * 100.0
    );
}
