//! Sandboxes of container groups: namespaces and cgroups, started by a small embedded agent.
