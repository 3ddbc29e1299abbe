//! Laneguard's control laws: pure, synchronous, without clock or I/O.
