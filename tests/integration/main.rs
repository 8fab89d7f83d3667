//! Integration tests: the real programs over real sockets, on loopback.

mod cloud;
mod input;
mod link;
mod peers;
