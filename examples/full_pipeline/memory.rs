//! What the C library does with memory that is given back. A program decides that, not a library in it; one with long-lived pipelines does well to.
//!
//! Invariant: what the process holds does not grow with the time it runs.
#![cfg_attr(all(target_os = "linux", target_env = "gnu"), expect(unsafe_code, reason = "the C library's settings have no other door"))]

/// Blocks from this size on go back to the system when they are freed: batches that are fetched, decoded and routed have megabytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 512 << 10;

/// To be called before any other thread is there. By itself glibc raises that size to the largest block ever freed, up to 32 MB; then blocks of megabytes
/// lie between small ones, in as many heaps as there are threads, and what is free between them goes on growing.
pub(crate) fn give_back() {
    // SAFETY: it takes two numbers, keeps no pointer, and is called while the process has one thread.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
