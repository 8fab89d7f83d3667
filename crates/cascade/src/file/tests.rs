use super::*;
use crate::graph::Mode;

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

/// A network with two early exits on the way to the cloud, one of them undecided.
const STAGES: &str = r#"
name = "stages"
description = "stages of one network on the device, another in the cloud"
entry = "small@first"

[[node]]
network = "small"
exit = "first"
site = "device"
jumps = ["small@second", "large"]
policy = { kind = "learned" }

[[node]]
network = "small"
exit = "second"
site = "device"
jumps = ["small"]
policy = { kind = "threshold", measure = "margin", at_least = 0.5 }

[[node]]
network = "small"
site = "device"
jumps = ["large"]
policy = { kind = "go-on" }

[[node]]
network = "large"
site = "cloud"
"#;

/// `STAGES` with a change.
fn stages(from: &str, to: &str) -> Result<Cascade, CascadeError> {
    assert!(STAGES.contains(from), "{from:?} is not in the file");
    Cascade::parse(&STAGES.replacen(from, to, 1))
}

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

#[test]
fn early_exits_are_nodes_of_their_own() {
    let cascade = Cascade::parse(STAGES).unwrap();
    let nodes: Vec<_> = cascade
        .nodes()
        .map(|(_, node)| (node.name(), node.network(), node.exit()))
        .collect();
    assert_eq!(
        nodes,
        [
            ("small@first", "small", Some("first")),
            ("small@second", "small", Some("second")),
            ("small", "small", None),
            ("large", "large", None),
        ]
    );
    assert_eq!(cascade.node(cascade.entry()).name(), "small@first");
}

#[test]
fn an_exit_stands_in_one_node() {
    let error = stages("exit = \"second\"", "exit = \"first\"").unwrap_err();
    assert!(matches!(error, CascadeError::Duplicate(name) if name == "small@first"));
}

#[test]
fn the_exits_of_a_network_share_a_site() {
    let apart = "network = \"small\"\nsite = \"fog\"";
    let error = stages("network = \"small\"\nsite = \"device\"", apart).unwrap_err();
    assert!(matches!(error, CascadeError::Torn(name) if name == "small"));
}

#[test]
fn names_have_plain_characters() {
    for (from, to) in [
        ("exit = \"first\"", "exit = \"first@second\""),
        ("exit = \"first\"", "exit = \"\""),
        ("network = \"large\"", "network = \"../large\""),
        ("network = \"large\"", "network = \"large one\""),
    ] {
        let error = stages(from, to).unwrap_err();
        assert!(matches!(error, CascadeError::Name(_)), "{to}: {error}");
    }
}

#[test]
fn a_policy_to_be_learned_leaves_its_node_undecided() {
    assert!(
        Cascade::parse(TWO)
            .unwrap()
            .undecided(Site::Device)
            .is_none()
    );
    let parse = || Cascade::parse(STAGES).unwrap();
    assert_eq!(
        parse().undecided(Site::Device).unwrap().name(),
        "small@first"
    );
    for mode in [Mode::DeviceOnly, Mode::CloudOnly] {
        assert!(parse().with_mode(mode).undecided(Site::Device).is_none());
    }
    let learned = || Arc::new(Constant(Decision::Exit)) as Arc<dyn DecisionFunction>;
    let decided = parse().with_policies([learned(), learned(), learned(), learned()]);
    assert!(decided.undecided(Site::Device).is_none());
}

#[test]
fn a_node_says_where_every_image_goes_on_to() {
    let goes_to = |cascade: &Cascade| {
        let names = cascade.nodes().map(|(_, node)| {
            let next = node.always_goes_to()?;
            Some(cascade.node(next).name().to_owned())
        });
        names.collect::<Vec<_>>()
    };
    let large = || Some("large".to_owned());
    let stages = Cascade::parse(STAGES).unwrap();
    assert_eq!(goes_to(&stages), [None, None, large(), None]);
    let cloud = stages.clone().with_mode(Mode::CloudOnly);
    let small = Some("small".to_owned());
    assert_eq!(goes_to(&cloud), [large(), small, large(), None]);
    assert_eq!(
        goes_to(&stages.with_mode(Mode::DeviceOnly)),
        [const { None }; 4]
    );
}

#[test]
fn a_policy_is_not_learned_where_there_is_no_choice() {
    let learned = "site = \"cloud\"\npolicy = { kind = \"learned\" }";
    let error = stages("site = \"cloud\"", learned).unwrap_err();
    assert!(matches!(error, CascadeError::Policy { .. }), "{error}");
}

#[test]
fn the_fingerprint_tells_apart_what_policies_are_learned_for() {
    let digest = |network: &str| format!("digest-of-{network}");
    let fingerprint = |from, to| stages(from, to).unwrap().fingerprint(digest);
    let cascade = Cascade::parse(STAGES).unwrap();
    let original = cascade.fingerprint(digest);
    assert_eq!(original.len(), 64);

    for (from, to) in [
        ("stages of one network", "something else"),
        ("name = \"stages\"", "name = \"renamed\""),
        ("at_least = 0.5", "at_least = 0.6"),
        ("{ kind = \"learned\" }", "{ kind = \"exit\" }"),
    ] {
        assert_eq!(fingerprint(from, to), original, "{to}");
    }
    for (from, to) in [
        ("[\"small@second\", \"large\"]", "[\"small@second\"]"),
        (
            "[\"small@second\", \"large\"]",
            "[\"large\", \"small@second\"]",
        ),
        ("site = \"cloud\"", "site = \"fog\""),
    ] {
        assert_ne!(fingerprint(from, to), original, "{to}");
    }
    let renamed = STAGES.replace("second", "third");
    let renamed = Cascade::parse(&renamed).unwrap();
    assert_ne!(renamed.fingerprint(digest), original);
    for network in ["small", "large"] {
        let retrained = |name: &str| match name == network {
            true => "another".to_owned(),
            false => digest(name),
        };
        assert_ne!(cascade.fingerprint(retrained), original, "{network}");
    }
}
