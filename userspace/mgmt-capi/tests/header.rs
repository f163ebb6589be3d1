// SPDX-License-Identifier: MIT OR Apache-2.0

//! The header is that of the code, and a C program can use it.

use std::path::Path;
use std::process::Command;

const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/mgmt-channel.h");

#[test]
fn the_header_is_that_of_the_code() {
    let directory = env!("CARGO_MANIFEST_DIR");
    let config = cbindgen::Config::from_root_or_default(directory);
    let source = Path::new(directory).join("src/lib.rs");
    let builder = cbindgen::Builder::new()
        .with_config(config)
        .with_src(source);
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    if std::env::var_os("MGMT_WRITE_HEADER").is_some() {
        std::fs::write(HEADER, &made).unwrap();
    }
    let made = String::from_utf8(made).unwrap();
    let kept = std::fs::read_to_string(HEADER).unwrap_or_default();
    assert!(
        made == kept,
        "include/mgmt-channel.h is out of date: MGMT_WRITE_HEADER=1"
    );
}

#[test]
fn a_c_program_compiles_with_it() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ask.c");
    let include = Path::new(HEADER).parent().unwrap();
    let flags = [
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-fsyntax-only",
    ];
    let done = Command::new("gcc-14")
        .args(flags)
        .arg("-I")
        .arg(include)
        .arg(program)
        .status();
    assert!(done.unwrap().success());
}
