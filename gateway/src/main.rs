//! The `tollgate` binary.
#![allow(clippy::all)]
fn main() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let a: Vec<String> = std::env::args().collect();
    let options = tollgate::serve::Options { config: a[3].clone().into(), upgrade: false, run_directory: "/tmp/tgrun".into(), log: "info".into() };
    if let Err(e) = tollgate::serve::serve(&options) { eprintln!("{e}"); std::process::exit(1); }
}
