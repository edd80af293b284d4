//! The `tollgate` binary.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Measured against the C library's (`bench/README.md`): a tenth less work a call, and less memory a stream.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What a thread keeps of freed blocks: with jemalloc's own 20 of each larger size, looked through every 64 KiB, each call
/// gave its room back to the arena and took it again. It costs about 1 MiB and saves a twentieth of a call.
#[expect(unsafe_code, reason = "no code: the name under which jemalloc looks for its settings, before `main`")]
#[unsafe(export_name = "malloc_conf")]
#[used]
static SETTINGS: Option<&u8> = c"tcache_nslots_small_min:128,tcache_gc_incr_bytes:4194304".to_bytes_with_nul().first();

fn main() -> ExitCode {
    // Before anything asks for a provider: without one installed, building a TLS configuration panics where two are
    // linked in. That somebody else was first cannot be, and would be the same provider.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    tollgate::cli::run(std::env::args_os())
}
