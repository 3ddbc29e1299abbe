//! Laneguard actuator: commands to bandwidth annotations on Kubernetes pods.
