//! The laws through their one entry point, `evaluate`: traces computed by hand, and properties.

mod drop_rate;
mod fixture;
mod pace;
mod properties;
mod threshold;
