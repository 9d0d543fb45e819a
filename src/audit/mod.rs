//! Decision events: encoding and the sinks that take them.
