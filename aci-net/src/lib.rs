//! Networks of container groups: addresses, names and rules.
