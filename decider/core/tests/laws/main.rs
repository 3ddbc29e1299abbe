//! The laws through their one entry point, `evaluate`: traces computed by hand, and properties.

mod adaptive;
mod drop_rate;
mod fixture;
mod pace;
mod properties;
mod reference;
mod shadow;
mod threshold;
