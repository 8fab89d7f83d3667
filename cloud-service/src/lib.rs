//! The cloud program: serves the large networks over the Open Inference Protocol.
