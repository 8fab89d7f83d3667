//! Compiles `open_inference.proto` with protox, so that no `protoc` need be installed.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=open_inference.proto");
    let descriptors = protox::compile(["open_inference.proto"], ["."])?;
    let descriptor_path = PathBuf::from(env::var("OUT_DIR")?).join("open_inference.bin");
    tonic_prost_build::configure()
        .bytes(".")
        // Channels are made elsewhere, and a browser has none.
        .build_transport(false)
        .codec_path("crate::bounded::BoundedCodec")
        // A server need not offer the extensions; what it leaves out is `UNIMPLEMENTED`.
        .generate_default_stubs(true)
        .file_descriptor_set_path(&descriptor_path)
        .skip_protoc_run()
        .compile_fds(descriptors.clone())?;
    std::fs::write(descriptor_path, prost::Message::encode_to_vec(&descriptors))?;
    Ok(())
}
