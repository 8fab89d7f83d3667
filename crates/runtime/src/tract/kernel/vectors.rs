//! The vectors that a kernel is made of: those of CPUs with AVX2 and FMA, or those of WebAssembly.

#[cfg(target_arch = "x86_64")]
mod present {
    use fearless_simd::{Avx2, Level, f32x8};

    /// The instructions.
    pub(in crate::tract) type Instructions = Avx2;
    /// A register of f32 values.
    pub(in crate::tract) type Values = f32x8<Avx2>;
    /// Values in a register.
    pub(in crate::tract) const LANES: usize = 8;

    /// The instructions, where this CPU has them.
    pub(in crate::tract) fn find() -> Option<Instructions> {
        Level::new().as_avx2()
    }
}

#[cfg(target_arch = "wasm32")]
mod present {
    use fearless_simd::{Level, WasmSimd128, f32x4};

    /// The instructions.
    pub(in crate::tract) type Instructions = WasmSimd128;
    /// A register of f32 values.
    pub(in crate::tract) type Values = f32x4<WasmSimd128>;
    /// Values in a register.
    pub(in crate::tract) const LANES: usize = 4;

    /// The instructions, without which the program does not load.
    pub(in crate::tract) fn find() -> Option<Instructions> {
        Level::new().as_wasm_simd128()
    }
}

pub(in crate::tract) use present::{Instructions, LANES, Values, find};
