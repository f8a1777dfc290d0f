//! Kubernetes YAML text to the policy model, with source positions.
