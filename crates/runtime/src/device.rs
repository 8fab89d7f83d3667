//! Where a runtime runs graphs.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// A CPU or a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU, by CUDA and cuDNN.
    Cuda(u32),
    /// A GPU, by TensorRT, and by CUDA for what TensorRT does not have.
    TensorRt(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::TensorRt(index) => write!(f, "tensorrt:{index}"),
        }
    }
}

/// A text that names no device.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no device: write cpu, cuda, cuda:1, tensorrt or tensorrt:1")]
pub struct UnknownDevice(String);

impl TryFrom<String> for Device {
    type Error = UnknownDevice;

    fn try_from(text: String) -> Result<Self, UnknownDevice> {
        text.parse()
    }
}

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice(text.to_owned());
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, index.parse().map_err(|_| unknown())?),
            None => (text, 0),
        };
        match kind {
            "cpu" if text == "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(index)),
            "tensorrt" => Ok(Self::TensorRt(index)),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written_alike() {
        for (text, device) in [
            ("cpu", Device::Cpu),
            ("cuda:0", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
            ("tensorrt:1", Device::TensorRt(1)),
        ] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1"] {
            text.parse::<Device>().unwrap_err();
        }
    }
}
