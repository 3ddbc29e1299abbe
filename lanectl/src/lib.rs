//! Laneguard's command line for operators.
