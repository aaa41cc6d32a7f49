//! The power goes at a random operation of a random life, often again while the spool is opened after that; or the disk
//! fails, or is full now and then. What was acknowledged is there, whole; what was not is there whole or not at all. `TRAM_CUTS=5000 cargo test -p tramd cuts`
//! tries more lives, `TRAM_CUT=n` only the n-th.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::super::{Access, FaultFiles};
use super::model::{Step, act, look, origin, step};
use super::*;

const CUTS_TRIED: u64 = 240;
/// Steps between two cuts.
const STEPS: u64 = 16;
/// A life of [`STEPS`] takes about so many operations.
const OPERATIONS: u64 = 220;
/// Cuts in one life.
const CUTS: u64 = 3;

fn open_on(files: &FaultFiles) -> Result<DiskSpool, SpoolError> {
    DiskSpool::open_on(Arc::new(files.clone()), DiskOptions { inline_sync: true, ..options() })
}

/// Random steps and numbers, the same for the same seed.
struct Chance(TestRunner);

impl Chance {
    fn new(seed: u64) -> Self {
        let seed = Digest::of(&seed.to_be_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.0);
        Self(TestRunner::new_with_rng(Config::default(), rng))
    }

    fn draw<T: std::fmt::Debug>(&mut self, from: impl Strategy<Value = T>) -> T {
        from.new_tree(&mut self.0).expect("nothing is filtered").current()
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.draw(0..limit)
    }
}

/// What happens besides the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    No,
    /// One access fails.
    Fails(Access),
    /// Now and then something else leaves little space.
    Full,
}

struct Life {
    number: u64,
    chance: Chance,
    files: FaultFiles,
    origin: MemorySpool,
    now_ms: u64,
    log: Vec<String>,
}

impl Life {
    /// Lives until the power goes. Answers what may be found then: one of these, whole.
    fn until_cut(&mut self, mut memory: MemorySpool) -> Vec<MemorySpool> {
        let trouble = [Trouble::No, Trouble::Fails(Access::Write), Trouble::Fails(Access::Sync), Trouble::Full];
        let trouble = trouble[self.chance.below(4) as usize];
        self.log.push(format!("{trouble:?}"));
        self.arm(trouble);
        let Ok(mut spool) = open_on(&self.files) else { return vec![memory] };
        for _ in 0..STEPS {
            let step = self.chance.draw(step());
            if let Step::Sweep(hours) = step {
                self.now_ms += hours * HOUR_MS / 2 + 1;
            }
            self.log.push(format!("{} {step:?}", self.files.operations()));
            if let Step::Reopen | Step::Kill = step {
                self.calm(&spool, &memory);
                self.arm(trouble);
                drop(spool);
                let Ok(again) = open_on(&self.files) else { return vec![memory] };
                spool = again;
                continue;
            }
            let after = memory.copy();
            let expected = act(&after, &self.origin, &step, self.now_ms);
            if trouble == Trouble::Full && !matches!(step, Step::Sweep(_)) && self.chance.below(3) == 0 {
                let little = self.chance.below(1 << 16);
                self.files.set_capacity(Some(self.files.taken_bytes() + little));
            }
            let done = act(&spool, &self.origin, &step, self.now_ms);
            self.files.set_capacity(None);
            if let Err(SpoolError::Full { .. }) = done {
                self.log.push("full".into());
                assert_eq!(trouble, Trouble::Full, "life {}", self.number);
                self.calm(&spool, &memory);
                self.arm(trouble);
                continue;
            }
            if let Err(SpoolError::Failed { .. } | SpoolError::Stopped { .. }) = done {
                let refused = spool.commit(&[]).expect_err("stopped");
                assert!(matches!(refused, SpoolError::Stopped { .. }), "life {}: {refused}", self.number);
                return vec![memory, after];
            }
            assert_eq!(done.is_ok(), expected.is_ok(), "life {}: {done:?}\n{:#?}", self.number, self.log);
            memory = after;
            if self.files.is_cut() {
                break;
            }
        }
        self.files.cut();
        vec![memory]
    }

    fn arm(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Fails(access) => self.files.fail(access, self.chance.below(OPERATIONS / 2)),
            _ => self.files.cut_at(self.files.operations() + 1 + self.chance.below(OPERATIONS)),
        }
    }

    /// Brings what nothing refers to to the same point in both, though only one of them knows who asked for what. Nothing
    /// happens meanwhile.
    fn calm(&mut self, spool: &DiskSpool, memory: &MemorySpool) {
        self.files.cut_at(u64::MAX);
        self.files.fail(Access::Write, u64::MAX);
        self.files.fail(Access::Sync, u64::MAX);
        for _ in 0..2 {
            self.now_ms += 2 * HOUR_MS;
            spool.sweep(self.now_ms).expect("sweeps");
            memory.sweep(self.now_ms).expect("sweeps");
        }
    }

    /// The disk after the cut, opened, and what it turned out to hold.
    fn reopen(&mut self, either: Vec<MemorySpool>) -> MemorySpool {
        let mut left = self.files.after_power_cut(self.chance.below(u64::MAX));
        if self.chance.below(3) == 0 {
            // The power goes again while the spool is being opened.
            left.cut_at(left.operations() + 1 + self.chance.below(12));
            drop(open_on(&left));
            left = left.after_power_cut(self.chance.below(u64::MAX));
        }
        self.files = left;
        self.log.push("cut".into());
        let spool = match open_on(&self.files) {
            Ok(spool) => spool,
            Err(error) => panic!("life {}: {error}\n{:#?}", self.number, self.log),
        };
        let found = look(&spool, false);
        let looks: Vec<Vec<String>> = either.iter().map(|memory| look(memory, false)).collect();
        let Some(at) = looks.iter().position(|expected| *expected == found) else {
            let differ = |expected: &Vec<String>| -> Vec<String> {
                expected.iter().zip(&found).filter(|(a, b)| a != b).map(|(a, b)| format!("- {a}\n+ {b}")).collect()
            };
            let differ: Vec<Vec<String>> = looks.iter().map(differ).collect();
            panic!("life {}: neither what was before nor what was after:\n{differ:#?}\n{:#?}", self.number, self.log)
        };
        let memory = either[at].copy();
        self.calm(&spool, &memory);
        assert_eq!(look(&spool, false), look(&memory, false), "life {}\n{:#?}", self.number, self.log);
        memory
    }
}

fn live(number: u64, origin: &MemorySpool) {
    let (chance, origin) = (Chance::new(number), origin.clone());
    let mut life = Life { number, chance, files: FaultFiles::new(), origin, now_ms: HOUR_MS, log: Vec::new() };
    let mut memory = MemorySpool::default();
    for _ in 0..CUTS {
        let either = life.until_cut(memory);
        memory = life.reopen(either);
    }
}

#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let origin = origin();
    if let Some(life) = number("TRAM_CUT") {
        return live(life, &origin);
    }
    let lives = number("TRAM_CUTS").map_or(CUTS_TRIED / CUTS, |cuts| cuts.div_ceil(CUTS));
    (0..lives).for_each(|life| live(life, &origin));
}
