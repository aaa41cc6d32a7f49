//! Real daemons along a chain of emulated lines, and what an application at one of them does.
//!
//! They join each other on this machine's loopback, which takes a second, and then move into the lab's namespaces.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tram_client::{Client, NewMessage, Place};
use tram_lab::{End, Lab, address};
use tram_proto::envelope::Precedence;
use tram_proto::id::MessageId;
use tram_tests::overlay::Overlay;

use crate::bytes::Fresh;

/// A node, its name and role, the node it dials, and the namespace it moves to.
type Seat = (&'static str, &'static str, &'static str, &'static str, usize);

/// Which nodes stand along how many lines. The first dials the second and so on; in a row of four the third is central.
const ONE: &[Seat] = &[("CT", "can-tho", "province", "C", 0)];
const TWO: &[Seat] = &[("CT", "can-tho", "province", "C", 1), ("NK", "ninh-kieu.can-tho", "commune", "CT", 0)];
const THREE: &[Seat] = &[
    ("CT", "can-tho", "province", "C", 1),
    ("AG", "an-giang", "province", "C", 3),
    ("NK", "ninh-kieu.can-tho", "commune", "CT", 0),
];
/// Two children side by side at the left end of one line.
const PAIR: &[Seat] = &[("CT", "can-tho", "province", "C", 0), ("AG", "an-giang", "province", "C", 0)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// CT - C
    One,
    /// NK - CT - C
    Two,
    /// NK - CT - C - AG
    Three,
    /// CT and AG at one end, C at the other.
    Pair,
}

impl Shape {
    const fn nodes(self) -> (&'static [Seat], usize) {
        match self {
            Self::One => (ONE, 1),
            Self::Two => (TWO, 2),
            Self::Three => (THREE, 2),
            Self::Pair => (PAIR, 1),
        }
    }
}

/// How nodes run that are not plain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Odd {
    /// A library that is loaded first, and what it reads.
    pub(crate) environment: Vec<(String, String)>,
    /// Appended to the config of each node but the first.
    pub(crate) config: String,
}

pub(crate) struct Nodes {
    pub(crate) overlay: Overlay,
}

impl Nodes {
    /// In the lab's namespaces, or all on loopback without one.
    pub(crate) fn start(shape: Shape, lab: Option<&Lab>, odd: &Odd) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut overlay = Overlay::central(program.to_str().expect("a plain path"), "127.0.0.1");
        let (nodes, central_space) = shape.nodes();
        for (node, name, role, parent, _) in nodes {
            overlay.join(node, name, role, (*parent != "C").then_some(*parent));
        }
        overlay.kill("C");
        let space_of =
            |node: &str| nodes.iter().find(|(other, ..)| *other == node).map_or(central_space, |(.., space)| *space);
        let mut all = vec![("C", "central", "", "", central_space)];
        all.extend(nodes);
        let listens: BTreeMap<&str, String> = all.iter().map(|(node, ..)| (*node, overlay.listen(node))).collect();
        for (node, _, role, parent, space) in &all {
            overlay.reconfigure(node, |mut config| {
                if lab.is_some() {
                    if let Some(listens) = listens.get(parent) {
                        let port = listens.rsplit(':').next().expect("a port");
                        let parent_space = space_of(parent);
                        // Of the line between the two, the parent's end.
                        let (line, end) =
                            if parent_space > *space { (*space, End::Right) } else { (parent_space, End::Left) };
                        config = config.replace(listens.as_str(), &format!("{}:{port}", address(line, end)));
                    }
                    if *role != "commune" {
                        let own = &listens[node];
                        let port = own.rsplit(':').next().expect("a port");
                        // Their own end of the line to the left of them: children may also be told of it.
                        let at = address(space.saturating_sub(1), if *space == 0 { End::Left } else { End::Right });
                        let listen = format!("overlay = \"0.0.0.0:{port}\"\nadvertise = \"{at}:{port}\"");
                        config = config.replace(&format!("overlay = \"{own}\""), &listen);
                    }
                }
                // The first node has no uplink to speak of.
                if *node == "C" { config } else { config + &odd.config }
            });
        }
        for (node, .., space) in &all {
            let mut command = crate::peers::command(lab.map(|lab| lab.space(*space)), "setpriv");
            // When this program is killed, so are they.
            command.args(["--pdeathsig", "KILL", "env"]);
            command.args(odd.environment.iter().map(|(name, value)| format!("{name}={value}")));
            overlay.run_by(node, command);
        }
        for (node, _, _, parent, _) in nodes {
            let parent = all.iter().find(|(other, ..)| other == parent).expect("it is one of them").1;
            overlay.await_link(node, parent);
        }
        if shape == Shape::Three {
            overlay.await_known("C", "ninh-kieu.can-tho");
            overlay.await_known("C", "an-giang");
        }
        Self { overlay }
    }

    /// An application at a node.
    pub(crate) fn application(&self, node: &str) -> Application {
        Application::at(Place::dir(&self.overlay.path(node)))
    }
}

#[derive(Debug, Default)]
struct Told {
    /// When each was due to be sent.
    due: BTreeMap<MessageId, Instant>,
    submitted: BTreeMap<MessageId, Instant>,
    arrived: BTreeMap<MessageId, Instant>,
    failed: Vec<String>,
}

/// Sends, and hears what arrived.
pub(crate) struct Application {
    client: Client,
    told: Arc<Mutex<Told>>,
    runtime: Option<Runtime>,
}

impl Application {
    fn at(place: Place) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let client = runtime.block_on(Client::connect(&place)).expect("the node answers");
        let told = Arc::new(Mutex::new(Told::default()));
        let mut watch = runtime.block_on(client.watch(&[])).expect("the node tells");
        let hears = told.clone();
        runtime.spawn(async move {
            while let Ok(Some(progress)) = watch.next().await {
                let Ok(id) = tram_client::message_id(&progress.id) else { continue };
                let mut told = hears.lock().unwrap_or_else(PoisonError::into_inner);
                if progress.state == "arrived" {
                    told.arrived.entry(id).or_insert_with(Instant::now);
                } else if progress.negative {
                    told.failed.push(format!("{}: {}", progress.state, progress.reason));
                }
            }
        });
        Self { client, told, runtime: Some(runtime) }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a new document in the background; everything is counted from `due` on.
    pub(crate) fn send(&self, to: &str, precedence: Precedence, bytes: u64, due: Instant) {
        let message = NewMessage {
            to: vec![to.parse().expect("an address")],
            precedence: Some(precedence),
            file_name: "cv.pdf".to_owned(),
            ..NewMessage::default()
        };
        let (client, told) = (self.client.clone(), self.told.clone());
        self.runtime.as_ref().expect("it runs").spawn(async move {
            tokio::time::sleep_until(due.into()).await;
            let sent = client.send(message, Fresh::new(bytes), |_| {}).await;
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            match sent {
                Ok(id) => {
                    told.due.insert(id, due);
                    told.submitted.insert(id, Instant::now());
                }
                Err(error) => told.failed.push(error.to_string()),
            }
        });
    }

    /// How long each took from `due` to `submitted` and to the news of `arrived`, for those that did.
    pub(crate) fn arrivals(&self) -> Vec<(Duration, Duration)> {
        let told = self.told();
        let both = |(id, due): (&MessageId, &Instant)| {
            Some((told.submitted.get(id)?.duration_since(*due), told.arrived.get(id)?.duration_since(*due)))
        };
        told.due.iter().filter_map(both).collect()
    }

    /// What was refused or ended badly.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.told().failed.clone()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
