use tonic::{Code, metadata::MetadataValue};

use super::{identities::ContentError, *};

const DIGEST_OF_SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn access(text: &str) -> Access {
    Access::new(Identities::parse(text).unwrap(), Metrics::default())
}

fn refused(text: &str) -> ContentError {
    Identities::parse(text).unwrap_err()
}

fn one(rest: &str) -> String {
    format!("[[identity]]\nname = \"camera-7\"\ntoken_sha256 = [\"{DIGEST_OF_SECRET}\"]\n{rest}\n")
}

fn call(access: &mut Access, authorization: Option<&'static str>) -> Result<Arc<Caller>, Status> {
    let mut request = Request::new(());
    if let Some(authorization) = authorization {
        let value = MetadataValue::from_static(authorization);
        request.metadata_mut().insert("authorization", value);
    }
    let request = access.call(request)?;
    assert!(request.metadata().get("authorization").is_none());
    Ok(request.extensions().get::<Arc<Caller>>().unwrap().clone())
}

#[test]
fn a_caller_is_known_by_its_token() {
    let mut access = access(&one(""));
    for authorization in ["Bearer secret", "bearer secret"] {
        let caller = call(&mut access, Some(authorization)).unwrap();
        assert_eq!(caller.name(), "camera-7");
        assert!(caller.may_use("resnet50") && caller.may(Permission::Infer));
        assert!(!caller.may(Permission::Manage));
    }
}

#[test]
fn a_stranger_is_unauthenticated_and_its_token_is_not_repeated() {
    let mut access = access(&one(""));
    for authorization in [
        None,
        Some("Bearer wrong-secret"),
        Some("Bearer"),
        Some("Basic secret"),
        Some("secret"),
    ] {
        let status = call(&mut access, authorization).err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{authorization:?}");
        assert!(!status.message().contains("secret"), "{status:?}");
    }
    let text = access.metrics.encode();
    let line = r#"outpost_cloud_failures_total{model="",transport="",cause="unauthenticated"} 5"#;
    assert!(text.contains(line), "{text}");
}

#[test]
fn networks_are_named_whole_or_by_how_they_begin() {
    let mut access = access(&one(r#"networks = ["resnet50", "efficientnet-*"]"#));
    let caller = call(&mut access, Some("Bearer secret")).unwrap();
    for (network, allowed) in [
        ("resnet50", true),
        ("resnet50-v2", false),
        ("efficientnet-lite2", true),
        ("squeezenet1.0", false),
        ("", false),
    ] {
        assert_eq!(caller.may_use(network), allowed, "{network}");
    }
}

#[test]
fn a_limit_lets_a_burst_through_and_then_says_when_to_come_back() {
    let mut access = access(&one("images_per_second = 1\nburst = 8"));
    let caller = call(&mut access, Some("Bearer secret")).unwrap();
    caller.take(8).unwrap();
    let Err(ServiceError::RateLimit { retry_after, .. }) = caller.take(4) else {
        panic!("let through");
    };
    let seconds = retry_after.as_secs_f64();
    assert!((3.0..=4.0).contains(&seconds), "{seconds}");
    let too_many = caller.take(9).unwrap_err();
    assert!(matches!(too_many, ServiceError::Burst { burst: 8, .. }));
}

#[test]
fn a_new_file_counts_at_once_and_gives_nobody_a_second_burst() {
    let limited = one("images_per_second = 1\nburst = 8");
    let mut access = access(&limited);
    let caller = call(&mut access, Some("Bearer secret")).unwrap();
    caller.take(8).unwrap();
    access.replace(Identities::parse(&limited).unwrap());
    let same = call(&mut access, Some("Bearer secret")).unwrap();
    same.take(8).unwrap_err();
    let other = limited.replace(DIGEST_OF_SECRET, &"0".repeat(64));
    access.replace(Identities::parse(&other).unwrap());
    call(&mut access, Some("Bearer secret")).err().unwrap();
}

#[test]
fn what_does_not_hold_is_refused_and_named() {
    let parse = refused("[[identity]]\nname = \"a\"\ncolour = 1\n");
    assert!(parse.to_string().contains("colour"), "{parse}");
    let leaked = refused("[[identity]]\nname = \"a\"\ntoken_sha256 = [\"my-secret\"]\n");
    assert!(!leaked.to_string().contains("my-secret"), "{leaked}");
    assert!(leaked.to_string().contains("line 3"), "{leaked}");
    let bare = refused("[[identity]]\nname = \"a\"\ntoken_sha256 = \"my-secret\"\n");
    assert!(!bare.to_string().contains("my-secret"), "{bare}");
    assert!(bare.to_string().contains("64 hexadecimal digits"), "{bare}");
    assert!(matches!(refused(""), ContentError::Nobody));
    assert!(matches!(
        refused("[[identity]]\nname = \"a\"\n"),
        ContentError::NoCredentials(_)
    ));
    assert!(matches!(
        refused(&one("burst = 3")),
        ContentError::BurstAlone(_)
    ));
    let twice = one("") + &one("");
    assert!(matches!(refused(&twice), ContentError::Name(_)));
    let shared = one("") + &one("").replace("camera-7", "camera-8");
    assert!(matches!(refused(&shared), ContentError::Shared { .. }));
}

#[test]
fn an_issued_token_is_private_and_lets_its_bearer_in() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let entry = new_token("camera \"7\"", &file).unwrap();
    let token = std::fs::read_to_string(&file).unwrap();
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!entry.contains(token.trim()));
    let access = access(&entry);
    let mut metadata = MetadataMap::new();
    let value = format!("Bearer {}", token.trim());
    metadata.insert("authorization", value.parse().unwrap());
    assert_eq!(
        access.identify(&metadata, None).unwrap().unwrap().name(),
        "camera \"7\""
    );
    new_token("other", &file).unwrap_err();
}
