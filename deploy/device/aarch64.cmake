# What CMake builds of the package for 64-bit Arm, on another machine: libaom. Its crate gives it a name of the processor that it
# does not know, with which it would be built without NEON; this one comes before that.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(AOM_TARGET_CPU arm64)
