//! Integration tests: the real programs over real sockets.
