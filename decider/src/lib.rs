//! Laneguard decider: samples to decisions and commands.
