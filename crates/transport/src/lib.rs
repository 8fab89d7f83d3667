//! gRPC channels and listeners over HTTP/2 with TLS and over HTTP/3.
