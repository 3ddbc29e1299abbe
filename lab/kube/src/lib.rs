//! A stateful stand-in for the parts of the Kubernetes API that Laneguard uses.
