//! What a program that is left running owes to whoever supervises it.
//!
//! - [`Watch`] says when files are to be read again: they changed, or SIGHUP asks for it. [`Digests`] is what they held.
//! - [`ready`], [`reloading`], [`stopping`] and [`status`] tell a service manager how it stands, by the protocol of
//!   systemd (`sd_notify`); where there is none they do nothing.
//! - [`watchdog`] tells it that the program makes progress, while it does. [`Underway`] is the work that it looks at.

mod files;
mod notify;
mod underway;
mod watchdog;

pub use files::{Call, Digests, Watch};
pub use notify::{ready, reloading, status, stopping};
pub use underway::{Piece, Underway};
pub use watchdog::watchdog;
