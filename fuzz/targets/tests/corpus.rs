//! Replays the corpus, and cheap variations of it, through every target.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use flumen_fuzz_targets::TARGETS;

#[test]
fn no_input_of_the_corpus_and_no_variation_of_it_breaks_a_target() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            target(&input);
            for length in 0..input.len().min(512) {
                target(&input[..length]);
            }
            for at in 0..input.len().min(512) {
                for flip in [0x01, 0x80, 0xff] {
                    let mut varied = input.clone();
                    varied[at] ^= flip;
                    target(&varied);
                }
            }
        }
    }
}

#[test]
fn the_answer_of_a_plugin_in_the_corpus_passes() {
    let inputs = inputs("plugin_answer");
    assert!(
        inputs
            .iter()
            .any(|i| flumen_broker::fuzzing::plugin_answer(i))
    );
}

#[test]
fn every_target_has_a_file_for_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz_targets");
    for (name, _) in TARGETS {
        let path = folder.join(format!("{name}.rs"));
        assert!(path.exists(), "{} is missing", path.display());
    }
}

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../corpus")
        .join(name);
    let entries = fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}
