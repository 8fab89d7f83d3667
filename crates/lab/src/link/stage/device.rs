//! The device of a run: the real program with the run's configuration.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::Deserialize;

use super::{LinkError, Stage, Wire, file};
use crate::{
    host,
    link::plan::{Policy, Run},
    programs::{Program, free_address},
};

/// Milliseconds that a late answer of the cloud may take.
const CORRECT_WITHIN_MS: u64 = 5000;

/// The device program, running.
pub(super) struct Device {
    program: Program,
    api: SocketAddr,
    answers: PathBuf,
}

/// What a run has used up so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) energy: Option<host::Energy>,
}

/// What is looked at of an event.
#[derive(Debug, Deserialize)]
struct Event {
    id: String,
    #[serde(rename = "final")]
    is_final: bool,
    class_id: Option<u32>,
}

impl Device {
    pub(super) fn start(stage: &Stage<'_>, run: &Run) -> Result<Self, LinkError> {
        let folder = &*stage.folder;
        let port = free_address().map_err(file(folder))?.port();
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let answers = folder.join("answers.jsonl");
        if answers.exists() {
            fs::remove_file(&answers).map_err(file(&answers))?;
        }
        let config = folder.join("edge-agent.toml");
        let text = configuration(stage, run, api)?;
        fs::write(&config, text).map_err(file(&config))?;
        let arguments = ["run", "--config", &config.display().to_string()].map(str::to_owned);
        let mut program = Program::new(
            "edge-agent",
            stage.programs.edge_agent.clone(),
            arguments.to_vec(),
            api,
            folder,
        )
        .within(stage.path.at_device());
        program.start()?;
        Ok(Self {
            program,
            api,
            answers,
        })
    }

    pub(super) const fn api(&self) -> SocketAddr {
        self.api
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            cpu_seconds: self
                .program
                .id()
                .and_then(host::cpu_seconds_of)
                .unwrap_or(0.0),
            energy: host::energy(),
        }
    }

    /// Ends it well; gives the class that held in the end, by the image's identifier.
    pub(super) fn end(&mut self) -> Result<HashMap<String, u32>, LinkError> {
        self.program.end()?;
        let lines = fs::read_to_string(&self.answers).map_err(file(&self.answers))?;
        let mut classes = HashMap::new();
        for line in lines.lines() {
            let event: Event = serde_json::from_str(line).map_err(|source| LinkError::Line {
                line: line.to_owned(),
                source,
            })?;
            if let (true, Some(class)) = (event.is_final, event.class_id) {
                classes.insert(event.id, class);
            }
        }
        Ok(classes)
    }
}

/// What the device program reads.
fn configuration(stage: &Stage<'_>, run: &Run, api: SocketAddr) -> Result<String, LinkError> {
    let mut cascade = stage.cascade_file.clone();
    let mut deciding = String::new();
    match &run.policy {
        Policy::DeviceOnly => deciding += "mode = \"device-only\"\n",
        Policy::CloudOnly => deciding += "mode = \"cloud-only\"\n",
        Policy::Threshold(_) => {}
        Policy::Learned(goal) | Policy::Fixed(goal) => {
            let bundle = stage.bundle()?;
            let follows = matches!(run.policy, Policy::Learned(_));
            deciding += &format!(
                "policy = {bundle:?}\noperating_point = {goal:?}\nfollow_link = {follows}\n"
            );
        }
    }
    if !matches!(run.policy, Policy::Learned(_) | Policy::Fixed(_)) {
        // Policies that are to be learned have none without a bundle; where these modes decide, any will do.
        let threshold = match run.policy {
            Policy::Threshold(share) => share,
            _ => 0.5,
        };
        let text = fs::read_to_string(&cascade).map_err(file(&cascade))?;
        let name = cascade.file_name().unwrap_or_default().to_owned();
        cascade = stage.folder.join(name);
        fs::write(&cascade, with_threshold(&text, threshold)?).map_err(file(&cascade))?;
    }
    Ok(format!(
        "models = {:?}\ncascade = {cascade:?}\n{deciding}deadline_ms = {}\n\
         correct_within_ms = {CORRECT_WITHIN_MS}\nmax_in_flight = {}\n\
         [cloud]\nurl = \"https://{}\"\ncertificate_authority = \"ca.pem\"\ntransport = \"{}\"\nencoding = {:?}\n\
         [api]\naddress = \"{api}\"\nmax_waiting = 256\n[outputs.file]\npath = \"answers.jsonl\"\nmax_bytes = 4_000_000_000\n",
        stage.programs.models,
        stage.cascade.deadline_ms,
        run.concurrency.max(8),
        stage.cloud_address,
        run.transport,
        run.payload,
    ))
}

/// The cascade with this threshold at every node that decides.
fn with_threshold(cascade: &str, threshold: f32) -> Result<String, LinkError> {
    let mut table: toml::Table = cascade
        .parse()
        .map_err(|error: toml::de::Error| LinkError::CascadeText(error.to_string()))?;
    let policy =
        format!("kind = \"threshold\"\nmeasure = \"max-probability\"\nat_least = {threshold:?}");
    let policy: toml::Table = policy.parse().expect("a table of these fields");
    let nodes = table.get_mut("node").and_then(toml::Value::as_array_mut);
    for node in nodes.into_iter().flatten() {
        if let Some(node) = node.as_table_mut()
            && node.contains_key("jumps")
        {
            node.insert("policy".to_owned(), policy.clone().into());
        }
    }
    toml::to_string(&table).map_err(|error| LinkError::CascadeText(error.to_string()))
}

impl Stage<'_> {
    fn bundle(&self) -> Result<PathBuf, LinkError> {
        let bundle = self.cascade.bundle.as_ref().expect("the plan was checked");
        let bundle = self.base.join(bundle);
        fs::canonicalize(&bundle).map_err(file(&bundle))
    }
}

/// Bytes on the wire by the device program's metrics, where it counts them.
pub(super) fn wire_bytes(metrics: &str) -> Option<Wire> {
    let of = |direction: &str| {
        let label = format!("direction=\"{direction}\"");
        let mut sum = None;
        for line in metrics.lines() {
            if line.starts_with("outpost_edge_wire_bytes_total{") && line.contains(&label) {
                let value: f64 = line.rsplit_once(' ')?.1.parse().ok()?;
                *sum.get_or_insert(0) += value as u64;
            }
        }
        sum
    };
    Some(Wire {
        sent: of("sent")?,
        received: of("received")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_that_decides_gets_the_threshold() {
        let cascade = "name = \"c\"\nentry = \"a\"\n[[node]]\nnetwork = \"a\"\nsite = \"device\"\n\
                       jumps = [\"b\"]\npolicy = { kind = \"learned\" }\n[[node]]\nnetwork = \"b\"\nsite = \"cloud\"\n";
        let with = with_threshold(cascade, 0.8).unwrap();
        let table: toml::Table = with.parse().unwrap();
        let nodes = table["node"].as_array().unwrap();
        assert_eq!(nodes[0]["policy"]["kind"].as_str(), Some("threshold"));
        assert_eq!(nodes[0]["policy"]["at_least"].as_float(), Some(0.8));
        assert!(nodes[1].get("policy").is_none());
    }

    #[test]
    fn bytes_of_all_endpoints_count() {
        let metrics = "# TYPE outpost_edge_wire_bytes counter\n\
            outpost_edge_wire_bytes_total{endpoint=\"a\",transport=\"h2\",direction=\"sent\"} 1000\n\
            outpost_edge_wire_bytes_total{endpoint=\"b\",transport=\"h3\",direction=\"sent\"} 200\n\
            outpost_edge_wire_bytes_total{endpoint=\"a\",transport=\"h2\",direction=\"received\"} 30\n";
        assert_eq!(
            wire_bytes(metrics),
            Some(Wire {
                sent: 1200,
                received: 30,
            })
        );
        assert_eq!(wire_bytes("outpost_edge_images_total 5\n"), None);
    }
}
