//! The Open Inference Protocol v2 gRPC service and its tensor contents.
