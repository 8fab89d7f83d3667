//! The agent in WebAssembly beside the programs: tests/web.

use std::{env, path::Path, process::Command};

use outpost_tests::{program, repository};

/// Needs Node.js, and in `OUTPOST_WEB` the folder that scripts/build-web makes.
#[test]
fn the_agent_in_webassembly_says_and_decides_what_edge_agent_does() {
    let Ok(web) = env::var("OUTPOST_WEB") else {
        assert!(
            env::var_os("OUTPOST_REQUIRE_WEB").is_none(),
            "the agent in WebAssembly is missing: run scripts/build-web and set OUTPOST_WEB"
        );
        eprintln!("SKIPPED: no OUTPOST_WEB");
        return;
    };
    let models = repository().join("models");
    for (cascade, policy, images) in [
        ("squeezenet-lite2", None, "photos"),
        (
            "cifar10-alexnet-resnet",
            Some("cifar10-alexnet-resnet"),
            "cifar10",
        ),
    ] {
        let policy = policy.map(|name| format!("policies/{name}.json"));
        let answers = tempfile::NamedTempFile::new().unwrap();
        let mut native = Command::new(program("edge-agent"));
        native
            .args([
                "classify",
                "--format",
                "json",
                "--deadline",
                "60000",
                "--models",
            ])
            .arg(&models)
            .arg("--cascade")
            .arg(models.join(format!("cascades/{cascade}.toml")))
            .arg("--answers")
            .arg(answers.path())
            .arg(models.join("samples").join(images));
        if let Some(policy) = &policy {
            native.arg("--policy").arg(models.join(policy));
        }
        let said = native.output().unwrap();
        assert!(said.status.success(), "{}", text(&said.stderr));
        let mut compare = node("compare.mjs", &web, &models);
        compare.args(["--cascade", &format!("cascades/{cascade}.toml")]);
        if let Some(policy) = &policy {
            compare.args(["--policy", policy]);
        }
        let compared = compare.arg(answers.path()).output().unwrap();
        let (said, error) = (text(&compared.stdout), text(&compared.stderr));
        assert!(compared.status.success(), "{said}{error}");
        let summary: serde_json::Value = serde_json::from_str(&said).unwrap();
        let (images, exits) = (&summary["images"], &summary["exits"]);
        assert!(images.as_u64() >= Some(50), "{said}");
        // Both decisions are there to be compared.
        assert!(
            exits.as_u64() > Some(0) && exits.as_u64() < images.as_u64(),
            "{said}"
        );
    }
    let refusals = node("refusals.mjs", &web, &models).output().unwrap();
    assert!(refusals.status.success(), "{}", text(&refusals.stderr));
    let image = models.join("samples/cifar10/test-airplane-0011.jpg");
    let memory = node("memory.mjs", &web, &models)
        .args(["--images", "500"])
        .arg(image)
        .output()
        .unwrap();
    let (said, error) = (text(&memory.stdout), text(&memory.stderr));
    assert!(memory.status.success(), "{said}{error}");
}

fn node(script: &str, web: &str, models: &Path) -> Command {
    let mut node = Command::new("node");
    node.arg("--expose-gc")
        .arg(repository().join("tests/web").join(script))
        .args(["--web", web, "--models"])
        .arg(models);
    node
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
