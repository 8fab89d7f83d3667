//! Networks: manifests, image decoding and pre-processing, and inference on tract.
