//! Replays the fuzzers' seed corpora and some thousand mutations of them, the same in every run.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tram_tests::fuzz::{TARGETS, Target};
use tram_tests::sim::Random;

const MUTATIONS: usize = 2_000;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = fuzz_dir().join("corpus").join(target);
    let files = names(&dir).into_iter();
    files.map(|name| (name.clone(), std::fs::read(dir.join(&name)).expect("a corpus file"))).collect()
}

/// Runs one input; a panic is told with all that is needed to see it again.
fn run(target: &str, body: Target, input: &[u8], origin: &str) {
    if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
        let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
        panic!("fuzz target {target} broke on {origin}: {hex}");
    }
}

fn mutate(random: &mut Random, seeds: &[(String, Vec<u8>)]) -> (String, Vec<u8>) {
    let pick = |random: &mut Random| seeds[random.below(seeds.len() as u64) as usize].clone();
    let (name, mut bytes) = pick(random);
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        let byte = random.number() as u8;
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, byte),
            2 => {
                let (_, other) = pick(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            3 => {
                let again: Vec<u8> = bytes[at..].iter().take(16).copied().collect();
                bytes.splice(at..at, again);
            }
            _ => {
                if let Some(one) = bytes.get_mut(at) {
                    *one = match random.below(4) {
                        0 => *one ^ (1 << (byte & 7)),
                        1 => 0xff,
                        2 => 0,
                        _ => byte,
                    };
                }
            }
        }
    }
    (name, bytes)
}

#[test]
fn no_decoder_breaks_on_its_corpus_or_on_mutations_of_it() {
    for (number, (target, body)) in (0..).zip(TARGETS) {
        let seeds = corpus(target);
        assert!(seeds.len() >= 3, "{target} needs seeds, good ones and bad ones");
        for (name, input) in &seeds {
            run(target, body, input, name);
        }
        let mut random = Random::new(number);
        for round in 0..MUTATIONS {
            let (name, input) = mutate(&mut random, &seeds);
            run(target, body, &input, &format!("mutation {round}, of {name}"));
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_a_fuzzer() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz_dir().join("corpus")), targets);
    let files: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz_dir().join("fuzz_targets")), files);
    let manifest = std::fs::read_to_string(fuzz_dir().join("Cargo.toml")).expect("the fuzz package's manifest");
    for name in targets {
        let path = format!("fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("\"{path}\"")), "tests/fuzz/Cargo.toml does not build {path}");
        let text = std::fs::read_to_string(fuzz_dir().join(&path)).expect("a target");
        assert!(text.contains(&format!("tram_tests::fuzz::{name}(data)")), "{path} runs another target");
    }
}
