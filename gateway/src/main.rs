//! The `tollgate` binary.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Messages come and go on many threads; the system's allocator costs a call more than its own work there.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Before anything asks for a provider: without one installed, building a TLS configuration panics where two are
    // linked in. That somebody else was first cannot be, and would be the same provider.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    tollgate::cli::run(std::env::args_os())
}
