//! Issues tokens.

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use outpost_runtime::sha256_hex;
use ring::rand::{SecureRandom as _, SystemRandom};

/// Writes a new token of 256 random bits into a file that only its owner may read, and returns the entry for the
/// file of identities, which has its digest alone.
///
/// # Errors
/// The file exists or cannot be written, or the system gives no random bits.
pub(crate) fn new_token(name: &str, file: &Path) -> io::Result<String> {
    let token = random_token()?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    writeln!(options.open(file)?, "{token}")?;
    // The digest is of the token as it is sent.
    let digest = sha256_hex(token.as_bytes());
    let name = toml::Value::String(name.to_owned());
    Ok(format!(
        "[[identity]]\nname = {name}\ntoken_sha256 = [\"{digest}\"]\n"
    ))
}

/// A token of 256 random bits, in hexadecimal.
pub(super) fn random_token() -> io::Result<String> {
    let mut secret = [0; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| io::Error::other("the system gives no random bits"))?;
    Ok(hexadecimal(&secret))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
