//! Exit policies: what a network said, and whether that is answer enough.
