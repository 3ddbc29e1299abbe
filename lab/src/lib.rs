//! The whole system on one Linux machine, on a real kernel network.
