// What this browser lacks to run the network.

/** A module whose only function has an instruction of simd128: `i8x16.splat`, `i8x16.popcnt`. */
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);

/** The code of the message of what is missing; null where nothing is. */
export function lacks() {
  if (typeof WebAssembly !== "object" || typeof WebAssembly.validate !== "function") return "no-wasm";
  if (!WebAssembly.validate(SIMD)) return "no-simd";
  return null;
}
