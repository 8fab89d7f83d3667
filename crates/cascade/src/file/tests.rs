use super::*;

const TWO: &str = r#"
name = "two"
description = "a device network and a cloud network"
entry = "small"

[[node]]
network = "small"
site = "device"
jumps = ["large"]
policy = { kind = "threshold", measure = "margin", at_least = 0.5 }

[[node]]
network = "large"
site = "cloud"
"#;

fn refusal(from: &str, to: &str) -> CascadeError {
    assert!(TWO.contains(from), "{from:?} is not in the file");
    Cascade::parse(&TWO.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn every_cascade_file_of_the_repository_is_valid_and_named_after_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cascades");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let cascade = Cascade::load(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(path.file_stem().unwrap(), cascade.name());
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn a_cascade_file_becomes_a_graph() {
    let cascade = Cascade::parse(TWO).unwrap();
    let entry = cascade.node(cascade.entry());
    assert_eq!((entry.network(), entry.site()), ("small", Site::Device));
    assert_eq!(cascade.node(entry.jumps()[0]).network(), "large");
}

#[test]
fn an_unknown_field_is_named() {
    let error = refusal("entry =", "colour = 1\nentry =");
    let CascadeError::Parse(source) = error else {
        panic!("{error}");
    };
    assert!(source.to_string().contains("colour"), "{source}");
}

#[test]
fn a_threshold_out_of_range_is_refused() {
    assert!(matches!(refusal("0.5", "1.5"), CascadeError::Parse(_)));
}

#[test]
fn names_must_be_nodes() {
    for (from, to) in [
        ("entry = \"small\"", "entry = \"s\""),
        ("[\"large\"]", "[\"l\"]"),
    ] {
        assert!(matches!(refusal(from, to), CascadeError::NoSuchNode { .. }));
    }
}

#[test]
fn a_network_stands_in_one_node() {
    let error = refusal("network = \"large\"", "network = \"small\"");
    assert!(matches!(error, CascadeError::Duplicate(name) if name == "small"));
}

#[test]
fn a_node_that_goes_on_has_a_policy_and_only_such_a_node() {
    let without = refusal("policy =", "#");
    assert!(matches!(without, CascadeError::Policy { .. }), "{without}");
    let with = refusal(
        "site = \"cloud\"",
        "site = \"cloud\"\npolicy = { kind = \"exit\" }",
    );
    assert!(matches!(with, CascadeError::Policy { .. }), "{with}");
}

#[test]
fn a_policy_goes_to_one_of_the_jumps() {
    let error = refusal("at_least = 0.5", "at_least = 0.5, to = \"small\"");
    assert!(matches!(error, CascadeError::Policy { .. }), "{error}");
}

#[test]
fn jumps_lead_away_from_the_device() {
    let swapped = TWO
        .replace("\"device\"", "\"elsewhere\"")
        .replace("\"cloud\"", "\"device\"")
        .replace("\"elsewhere\"", "\"cloud\"");
    let error = Cascade::parse(&swapped).unwrap_err();
    assert!(matches!(error, CascadeError::Backwards { .. }), "{error}");
}

#[test]
fn circles_are_refused() {
    let back = "site = \"cloud\"\njumps = [\"large\"]\npolicy = { kind = \"go-on\" }";
    assert!(matches!(
        refusal("site = \"cloud\"", back),
        CascadeError::Circle(_)
    ));
}

#[test]
fn a_node_that_nothing_leads_to_is_refused() {
    let alone = "site = \"cloud\"\n\n[[node]]\nnetwork = \"alone\"\nsite = \"cloud\"";
    let error = refusal("site = \"cloud\"", alone);
    assert!(matches!(error, CascadeError::Unreachable(name) if name == "alone"));
}
