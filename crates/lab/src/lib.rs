//! A node with pods in network namespaces of this machine, and probes between them.
