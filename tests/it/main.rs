//! Integration tests: the public interface, against real files and sockets.

mod config;
