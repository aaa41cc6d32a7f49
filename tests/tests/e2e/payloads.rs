//! Real documents and a large file over four hops, and the memory that takes.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use tram_tests::overlay::{Overlay, heavy};
use tram_tests::sim::Random;

use super::{FAR, HERE, PROGRAM};

/// Resident memory no daemon may exceed, in bytes.
const MEMORY_BYTES: u64 = 150 * 1024 * 1024;
const MIB: usize = 1024 * 1024;

fn large_mib() -> usize {
    std::env::var("TRAM_LARGE_MIB").map_or(256, |text| text.parse().expect("TRAM_LARGE_MIB is a number"))
}

/// The files of `TRAM_DOCUMENTS`, or some that look like what offices write.
fn documents(overlay: &Overlay) -> Vec<PathBuf> {
    let Some(dir) = std::env::var_os("TRAM_DOCUMENTS") else {
        let line = "Căn cứ Luật Tổ chức chính quyền địa phương ngày 19 tháng 6 năm 2015;\n";
        let names = ["Tờ trình.txt", "Quyết định số 749/QĐ-TTg.txt", "Báo cáo quý III (bản cuối).txt"];
        let sizes = [1, 900, 60_000];
        let write = |(name, lines): (&str, usize)| overlay.write(name.replace('/', "-"), line.repeat(lines).as_bytes());
        return names.into_iter().zip(sizes).map(write).collect();
    };
    let entries = fs::read_dir(dir).expect("TRAM_DOCUMENTS is a directory");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.is_file());
    assert!(!files.is_empty(), "TRAM_DOCUMENTS holds no file");
    files.sort();
    files
}

fn write_random(path: &Path, mib: usize) {
    let mut file = BufWriter::new(File::create(path).expect("made"));
    let mut random = Random::new(7);
    let mut block = vec![0; MIB];
    for _ in 0..mib {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.number().to_le_bytes());
        }
        file.write_all(&block).expect("written");
    }
    file.flush().expect("written");
}

pub(super) fn assert_same(left: &Path, right: &Path) {
    let length = |path: &Path| fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).len();
    assert_eq!(length(left), length(right), "{} and {}", left.display(), right.display());
    let open = |path: &Path| BufReader::with_capacity(MIB, File::open(path).expect("it opens"));
    let (mut a, mut b) = (open(left), open(right));
    let (mut of_a, mut of_b) = (vec![0; MIB], vec![0; MIB]);
    loop {
        let read = a.read(&mut of_a).expect("read");
        if read == 0 {
            return;
        }
        b.read_exact(&mut of_b[..read]).expect("as long as the other");
        assert!(of_a[..read] == of_b[..read], "{} differs from {}", left.display(), right.display());
    }
}

#[test]
fn documents_and_a_large_file_arrive_as_they_were_in_little_memory() {
    let _alone = heavy();
    let overlay = Overlay::tree(PROGRAM, HERE);
    let documents = documents(&overlay);
    for file in &documents {
        let _ = overlay.send("NK", FAR, file, &["--precedence", "immediate"]).ok();
    }
    let _ = overlay.recv("CD", "out", documents.len()).ok();
    for file in &documents {
        assert_same(file, &overlay.path("out").join(file.file_name().expect("a name")));
    }

    let mib = large_mib();
    let large = overlay.path("large.bin");
    write_random(&large, mib);
    let begin = std::time::Instant::now();
    let _ = overlay.send("NK", FAR, &large, &["--wait", "arrived", "--timeout", "10m"]).ok();
    let arrived = begin.elapsed();
    let _ = overlay.recv("CD", "out", 1).ok();
    println!("{} documents and {mib} MiB over four hops", documents.len());
    println!("large file: arrived after {arrived:.1?}, on the receiver's disk after {:.1?}", begin.elapsed());
    assert_same(&large, &overlay.path("out").join("large.bin"));

    for node in ["NK", "CT", "C", "AG", "CD"] {
        let peak = overlay.peak_bytes(node);
        println!("{node:>2}: at most {:.1} MiB resident", peak as f64 / MIB as f64);
        assert!(peak < MEMORY_BYTES, "{node} had {peak} bytes resident");
    }
}
