use std::collections::BTreeSet;

/// Where metrics are registered. A family without a label set yet is not among what is encoded.
const REGISTERED: &str = concat!(
    include_str!("../metrics.rs"),
    include_str!("audits.rs"),
    include_str!("endpoints.rs"),
    include_str!("links.rs"),
    include_str!("power.rs"),
    include_str!("process.rs"),
);

#[test]
fn what_documents_and_alerts_name_is_a_metric() {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    for text in [
        include_str!("../../../docs/device.md"),
        include_str!("../../../deploy/prometheus/edge-agent.rules.yml"),
    ] {
        let prefix = concat!("outpost", "_edge_");
        let names: BTreeSet<&str> = text
            .match_indices(prefix)
            .map(|(from, _)| {
                let name = &text[from + prefix.len()..];
                &name[..name.find(|c| !is_name(c)).unwrap_or(name.len())]
            })
            .filter(|name| !name.is_empty())
            .collect();
        assert!(names.len() >= 6, "{names:?}");
        for name in names {
            // A counter, a histogram, and a unit have their endings.
            let mut name = name;
            let mut is_there = false;
            loop {
                is_there |= REGISTERED.contains(&format!("\"{name}\""));
                let endings = [
                    "_total", "_bytes", "_seconds", "_joules", "_bucket", "_sum", "_count", "_info",
                ];
                match endings.iter().find_map(|ending| name.strip_suffix(ending)) {
                    Some(stem) if !is_there => name = stem,
                    _ => break,
                }
            }
            assert!(is_there, "{name} is no metric");
        }
    }
}
