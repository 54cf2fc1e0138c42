//! cluster.yaml.
