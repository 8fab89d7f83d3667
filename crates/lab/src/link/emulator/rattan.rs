//! Paths by [rattan](https://github.com/stack-rs/rattan), for kernels without netem: in each direction it loses packets, then
//! holds them to a rate behind a queue, then delays them.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

use serde_json::{Value, json};
use ureq::Agent;

use super::{CLOSE, Condition, EmulatorError, Holder, LOOK, Middle, run};

/// The version whose configuration and control this is.
const VERSION: &str = "0.1.1";
/// Where rattan puts the ends of an isolated path.
const CLOUD: Ipv4Addr = Ipv4Addr::new(10, 2, 1, 1);
/// Bits a second that stand for no bound.
const UNBOUND: f64 = 1e11;

#[derive(Debug)]
pub(in crate::link) struct Rattan {
    program: PathBuf,
    name: String,
}

/// What lies between the ends: the program, and where it takes changes.
#[derive(Debug)]
pub(super) struct Between {
    child: Mutex<Child>,
    control: u16,
    log: PathBuf,
}

/// A direction and what it does: loss, rate, delay.
type Direction = (&'static str, Option<f64>);

impl Rattan {
    pub(super) fn find(program: Option<&Path>) -> Result<Self, EmulatorError> {
        let program = program.map_or_else(|| PathBuf::from("rattan"), Path::to_owned);
        let missing = |problem: String| EmulatorError::NoRattan {
            version: VERSION,
            problem,
        };
        let said = run(&program.display().to_string(), &["--version"])
            .map_err(|error| missing(error.to_string()))?;
        let is_right = said
            .lines()
            .any(|line| line.trim() == format!("rattan {VERSION}"))
            || said.starts_with(&format!("rattan {VERSION}"));
        if !is_right {
            return Err(missing(format!("it says {:?}", said.lines().next())));
        }
        Ok(Self {
            program,
            name: format!("rattan {VERSION}"),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn open(
        &self,
        condition: Condition,
        folder: &Path,
    ) -> Result<(Middle, Holder, Holder, Ipv4Addr), EmulatorError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| EmulatorError::File { path, source }
        };
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|bound| bound.local_addr());
        let control = free.map_err(file(Path::new("loopback")))?.port();
        let ends = ["device", "cloud"].map(|end| folder.join(format!("{end}.process")));
        for end in &ends {
            let _ = fs::remove_file(end);
        }
        let config = folder.join("rattan.toml");
        let text = toml::to_string(&configuration(condition, control, &ends))
            .map_err(|error| EmulatorError::Path(error.to_string()))?;
        fs::write(&config, text).map_err(file(&config))?;
        let log = folder.join("rattan.log");
        let out = fs::File::create(&log).map_err(file(&log))?;
        let child = Command::new(&self.program)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(file(&log))?)
            .stderr(out)
            .spawn()
            .map_err(|error| EmulatorError::Path(error.to_string()))?;
        let between = Between {
            child: Mutex::new(child),
            control,
            log,
        };
        let device = Holder::await_in(&ends[0], || between.lost())?;
        let cloud = Holder::await_in(&ends[1], || between.lost())?;
        Ok((Middle::Rattan(between), device, cloud, CLOUD))
    }
}

fn directions(condition: Condition) -> [Direction; 2] {
    [
        ("up", condition.uplink_mbps),
        ("down", condition.downlink_mbps),
    ]
}

fn bandwidth(condition: Condition, mbps: Option<f64>) -> Value {
    let rate = mbps.map_or(UNBOUND, |mbps| mbps * 1e6);
    // Rattan wants less than a billion bits beside whole billions.
    let (gigabits, bits) = ((rate / 1e9).floor(), rate % 1e9);
    json!({
        "bandwidth": format!("{gigabits:.0}Gbps {bits:.0}bps"),
        "queue_config": { "byte_limit": condition.queue_bytes(rate / 1e6) },
        "bw_type": "NetworkLayer",
    })
}

fn delay(condition: Condition) -> Value {
    json!({ "delay": format!("{}us", condition.one_way().as_micros()) })
}

fn loss(condition: Condition) -> Value {
    json!({ "pattern": [condition.loss] })
}

fn with(mut cell: Value, more: &[(&str, &str)]) -> Value {
    for (key, value) in more {
        cell[key] = json!(value);
    }
    cell
}

/// What rattan reads: the cells of both directions, how they follow each other, and what runs at the ends.
fn configuration(condition: Condition, control: u16, ends: &[PathBuf; 2]) -> Value {
    let (mut cells, mut links) = (json!({}), json!({}));
    for (direction, mbps) in directions(condition) {
        let name = |what: &str| format!("{direction}_{what}");
        cells[name("loss")] = with(loss(condition), &[("type", "Loss")]);
        let queue = [("type", "Bw"), ("queue", "DropTail")];
        cells[name("rate")] = with(bandwidth(condition, mbps), &queue);
        cells[name("delay")] = with(delay(condition), &[("type", "Delay")]);
        let (from, to) = match direction {
            "up" => ("left", "right"),
            _ => ("right", "left"),
        };
        links[from] = json!(name("loss"));
        links[name("loss")] = json!(name("rate"));
        links[name("rate")] = json!(name("delay"));
        links[name("delay")] = json!(to);
    }
    json!({
        "env": { "mode": "Isolated" },
        "http": { "enable": true, "port": control },
        "cells": cells,
        "links": links,
        "commands": { "left": Holder::script(&ends[0]), "right": Holder::script(&ends[1]) },
    })
}

impl Between {
    fn lost(&self) -> Option<String> {
        let mut child = self.child.lock().ok()?;
        let status = child.try_wait().ok()??;
        Some(format!(
            "rattan ended ({status}): {} says why",
            self.log.display()
        ))
    }

    pub(super) fn set(&self, before: Condition, now: Condition) -> Result<(), EmulatorError> {
        for ((direction, mbps), (_, had)) in directions(now).into_iter().zip(directions(before)) {
            if mbps != had || now.queue_ms != before.queue_ms {
                self.configure(&format!("{direction}_rate"), &bandwidth(now, mbps))?;
            }
            if now.round_trip_ms != before.round_trip_ms {
                self.configure(&format!("{direction}_delay"), &delay(now))?;
            }
            if now.loss != before.loss {
                self.configure(&format!("{direction}_loss"), &loss(now))?;
            }
        }
        Ok(())
    }

    fn configure(&self, cell: &str, to: &Value) -> Result<(), EmulatorError> {
        let url = format!("http://127.0.0.1:{}/config/{cell}", self.control);
        let agent: Agent = Agent::config_builder()
            .timeout_global(Some(CLOSE))
            .build()
            .into();
        let text = to.to_string();
        let posted = agent
            .post(&url)
            .header("content-type", "application/json")
            .send(&text);
        posted.map(|_| ()).map_err(|error| EmulatorError::Command {
            command: format!("rattan: {cell} = {text}"),
            problem: error.to_string(),
        })
    }

    /// Waits until rattan has ended by itself, as both ends have, and taken its namespaces away.
    pub(super) fn close(&mut self) {
        let Ok(mut child) = self.child.lock() else {
            return;
        };
        let began = Instant::now();
        while let Ok(None) = child.try_wait() {
            if began.elapsed() > CLOSE {
                let _ = child.kill();
                let _ = child.wait();
            }
            thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_lose_hold_and_delay_in_this_order() {
        let condition = Condition {
            round_trip_ms: 50.0,
            uplink_mbps: Some(2.5),
            downlink_mbps: None,
            loss: 0.01,
            queue_ms: 200.0,
        };
        let ends = ["/a".into(), "/b".into()];
        let text = toml::to_string(&configuration(condition, 8086, &ends)).unwrap();
        let read: toml::Table = text.parse().unwrap();
        let links = read["links"].as_table().unwrap();
        let mut at = "left";
        for next in [
            "up_loss",
            "up_rate",
            "up_delay",
            "right",
            "down_loss",
            "down_rate",
            "down_delay",
            "left",
        ] {
            at = links[at].as_str().unwrap();
            assert_eq!(at, next);
        }
        let cell = |name: &str| read["cells"][name].as_table().unwrap().clone();
        assert_eq!(
            cell("up_rate")["bandwidth"].as_str(),
            Some("0Gbps 2500000bps")
        );
        let bytes = cell("up_rate")["queue_config"]["byte_limit"].as_integer();
        assert_eq!(bytes, Some(62_500));
        assert_eq!(
            cell("down_rate")["bandwidth"].as_str(),
            Some("100Gbps 0bps")
        );
        assert_eq!(cell("down_delay")["delay"].as_str(), Some("25000us"));
    }
}
