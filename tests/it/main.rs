//! Integration tests: real sockets, real servers, hostile bytes.

mod upstream;
