//! The two lanes of parsing, and etherparse asked for whole packets, say the same: of the corpus that fuzzing has
//! found, of everything near it, and of the frames that once were a mistake.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "lanes/mod.rs"]
mod lanes;

use std::fs;
use std::path::{Path, PathBuf};

use lanes::{check, mended};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Frames by name, with what was found wrong with them and what is to be said of them.
#[test]
fn frames_that_were_a_mistake_once() {
    let files = files("tests/frames");
    assert!(!files.is_empty());
    for file in files {
        let (mut expected, mut frame) = (None, Vec::new());
        for line in fs::read_to_string(&file).unwrap().lines() {
            match line.split_once(' ') {
                Some(("#", _)) => {}
                Some(("expect", reason)) => expected = Some(reason.to_owned()),
                _ => frame.extend(line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap())),
            }
        }
        let said = check(&frame).map_or_else(|reason| reason.name(), |_| "packet");
        assert_eq!(Some(said), expected.as_deref(), "{}", file.display());
    }
}

/// Each frame of the corpus, cut at every length, and with every byte bent.
#[test]
fn the_corpus_and_everything_near_it() {
    let files = files("fuzz/corpus/lanes");
    assert!(files.len() > 20, "the corpus is gone");
    let (mut frames, mut packets) = (0, 0);
    let mut count = |frame: &[u8]| {
        frames += 1;
        packets += u32::from(check(frame).is_ok());
        if let Some(mended) = mended(frame) {
            frames += 1;
            packets += u32::from(check(&mended).is_ok());
        }
    };
    for file in files {
        let frame = fs::read(file).unwrap();
        for length in 0..=frame.len() {
            count(&frame[..length]);
        }
        for at in 0..frame.len().min(200) {
            let mut bent = frame.clone();
            bent[at] ^= 0xff;
            count(&bent);
            bent[at] = frame[at].wrapping_add(1);
            count(&bent);
        }
    }
    assert!(
        packets > 1000 && frames > 10 * packets / 9,
        "{packets} of {frames} are packets: nothing is tested"
    );
}
