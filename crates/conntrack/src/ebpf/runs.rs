//! What the programs cost, as the kernel measures it.

use std::io;
use std::os::fd::OwnedFd;

use libbpf_rs::Link;
use libbpf_rs::query::ProgInfoIter;

use super::kernel;

/// Runs of one program while they were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How many.
    pub count: u64,
    /// Nanoseconds that all of them took.
    pub nanoseconds: u64,
}

/// Has the kernel measure each run of each program on the machine (Linux 5.8), as long as what is returned is open. A
/// measured run takes longer by reading the clock twice.
///
/// # Errors
/// The kernel's answer.
pub fn measure_runs() -> io::Result<OwnedFd> {
    kernel::measure_runs()
}

/// Of a program that is attached by `link`; needs `CAP_SYS_ADMIN`.
pub(super) fn of(link: &Link) -> libbpf_rs::Result<Runs> {
    let id = link.info()?.prog_id;
    let program = ProgInfoIter::default().find(|program| program.id == id);
    let runs = program.map(|program| Runs { count: program.run_cnt, nanoseconds: program.run_time_ns });
    runs.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound).into())
}
