use outpost_transport::AltSvc;

use super::*;

#[test]
fn the_example_file_parses_and_passes_the_check() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cloud-service.example.toml");
    Config::load(&path).unwrap().check().unwrap();
}

#[test]
fn going_without_tls_must_be_asked_for() {
    let mut config = Config::default();
    assert!(matches!(config.check(), Err(ConfigError::NoTls)));
    config.plaintext = true;
    config.check().unwrap();
}

#[test]
fn a_limit_of_zero_is_refused_by_name() {
    let mut config = Config {
        plaintext: true,
        ..Config::default()
    };
    config.limits.decoders = 0;
    let error = config.check().unwrap_err();
    assert!(error.to_string().contains("limits.decoders"));
}

#[test]
fn batching_is_the_services_unless_a_network_has_its_own() {
    let text = "
        plaintext = true
        [batching]
        max_batch = 4
        [network.resnet50.batching]
        max_batch = 16
        preferred = [4, 8]
    ";
    let config: Config = toml::from_str(text).unwrap();
    config.check().unwrap();
    assert_eq!(config.batching("squeezenet1.0").max_batch, 4);
    assert_eq!(config.batching("resnet50").preferred, [4, 8]);
}

#[test]
fn versions_are_chosen_from_those_that_there_are() {
    let versions = |words: &str| {
        let text = format!("plaintext = true\n[network.a]\nversions = {words}");
        let config: Config = toml::from_str(&text).unwrap();
        config.check().map(|()| config.versions("a"))
    };
    let present = [2, 5, 9];
    for (words, chosen) in [
        ("{ latest = 1 }", vec![9]),
        ("{ latest = 2 }", vec![5, 9]),
        ("{ latest = 7 }", vec![2, 5, 9]),
        ("\"all\"", vec![2, 5, 9]),
        ("{ only = [5, 7] }", vec![5, 7]),
    ] {
        assert_eq!(versions(words).unwrap().choose(&present), chosen, "{words}");
    }
    assert_eq!(Versions::default().choose(&present), [9]);
    for words in ["{ latest = 0 }", "{ only = [] }"] {
        let error = versions(words).unwrap_err().to_string();
        assert!(error.contains("network.a.versions"), "{error}");
    }
}

#[test]
fn batching_that_makes_no_sense_is_refused_by_name() {
    for (words, field) in [
        ("max_batch = 0", "batching.max_batch"),
        ("max_delay_ms = -1", "batching.max_delay_ms"),
        ("max_delay_ms = nan", "batching.max_delay_ms"),
        ("max_batch = 4\npreferred = [8]", "batching.preferred"),
        ("max_batch = 4\npreferred = [0]", "batching.preferred"),
        ("instances = 0", "batching.instances"),
        ("max_queue = 1000001", "batching.max_queue"),
    ] {
        for table in ["batching", "network.resnet50.batching"] {
            let text = format!("plaintext = true\n[{table}]\n{words}");
            let config: Config = toml::from_str(&text).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(field), "{words}: {error}");
        }
    }
}

#[test]
fn early_data_needs_http3_and_clients_without_certificates() {
    let check = |words: &str| {
        let tls = "[tls]\ncertificate = \"c\"\nkey = \"k\"";
        let config: Config = toml::from_str(&words.replace("TLS", tls)).unwrap();
        config.check().map_err(|error| error.to_string())
    };
    check("early_data = true\nTLS").unwrap();
    for (words, advice) in [
        ("early_data = true\nplaintext = true", "http3 = true"),
        ("early_data = true\nhttp3 = false\nTLS", "http3 = true"),
        (
            "early_data = true\nTLS\nclient_authority = \"a\"",
            "client_authority",
        ),
    ] {
        let error = check(words).unwrap_err();
        assert!(error.contains(advice), "{words}: {error}");
    }
}

#[test]
fn the_page_of_the_example_has_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cloud-service.example.toml");
    let example = fs::read_to_string(path).unwrap();
    let (_, page) = example.split_once("# [page]\n").unwrap();
    let (page, _) = page.split_once("\n\n").unwrap();
    let fields: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = "))
        .collect();
    let shown: PageConfig = toml::from_str(&fields.join("\n")).unwrap();
    let least: PageConfig = toml::from_str("cascade = \"a.toml\"").unwrap();
    assert_eq!(shown.operating_point, least.operating_point);
    assert_eq!(shown.deadline_ms, least.deadline_ms);
    assert_eq!(shown.correct_within_ms, least.correct_within_ms);
    assert_eq!(shown.token_seconds, least.token_seconds);
    assert_eq!(shown.tokens_at_once, least.tokens_at_once);
    assert_eq!(shown.tokens_per_minute, least.tokens_per_minute);
    assert_eq!(shown.images_per_minute, least.images_per_minute);
    assert!(shown.folder.is_some() && shown.policy.is_some());
}

#[test]
fn browsers_are_served_where_a_table_says_so_and_a_page_needs_tls() {
    let parse = |text: &str| -> Config { toml::from_str(text).unwrap() };
    assert!(parse("plaintext = true").web().is_none());
    let config = parse(
        "plaintext = true\n[grpc_web]\norigins = [\"https://A.example:443\"]\nhttp3_port = 443",
    );
    config.check().unwrap();
    let web = config.web().unwrap();
    assert_eq!(web.origins[0].as_str(), "https://a.example");
    assert_eq!(web.alt_svc, AltSvc::Port(443));
    let config = parse("plaintext = true\n[page]\ncascade = \"a.toml\"");
    assert_eq!(config.web().unwrap().alt_svc, AltSvc::OwnPort);
    assert!(matches!(config.check(), Err(ConfigError::PageInTheClear)));
    let silent = parse("[grpc_web]\nadvertise_http3 = false").web().unwrap();
    assert_eq!(silent.alt_svc, AltSvc::Silent);
}

#[test]
fn numbers_of_a_page_that_make_no_sense_are_refused_by_name() {
    for (words, field) in [
        ("deadline_ms = 0", "page.deadline_ms"),
        ("correct_within_ms = 3600001", "page.correct_within_ms"),
        ("token_seconds = 0", "page.token_seconds"),
        ("token_seconds = 86401", "page.token_seconds"),
        ("tokens_at_once = 0", "page.tokens_at_once"),
        ("tokens_per_minute = 0", "page.tokens_per_minute"),
        ("images_per_minute = 1000001", "page.images_per_minute"),
    ] {
        let text = format!(
            "[tls]\ncertificate = \"a\"\nkey = \"b\"\n[page]\ncascade = \"a.toml\"\n{words}"
        );
        let config: Config = toml::from_str(&text).unwrap();
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(field), "{words}: {error}");
    }
    for words in ["origins = [\"a.example\"]", "http3_port = 0", "port = 1"] {
        toml::from_str::<Config>(&format!("[grpc_web]\n{words}")).unwrap_err();
    }
}
