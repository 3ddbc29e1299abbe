//! Harnesses for Laneguard's tests: real servers, real binaries, faults.
