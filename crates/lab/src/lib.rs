//! The off-line program: fetch published networks, measure networks, summarise answers.
