//! Three replicas of `cloud-service` behind a proxy, under steady load: one is killed, one is rolled, and no
//! device notices.
//!
//! The proxies are HAProxy and nginx, configured as docs/deployment.md has it. Where one is not installed its tests
//! say that they are skipped; where `OUTPOST_REQUIRE_PROXY` names it, they fail.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use outpost_tests::{CertificateFolder, CloudService, EdgeAgent, repository, some_cifar};
use serde_json::Value;
use tokio::net::TcpSocket;

const NETWORK: &str = "cifar10-resnet";
const DEVICES: usize = 3;
/// Images that a device has at hand; as many as it takes up at a time, so that it waits for the cloud alone.
const AT_HAND: usize = 8;
/// Answers between two events.
const STEADY: usize = 200;
/// For each step; generous, as test machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

const CASCADE: &str = r#"
name = "replicas"
description = "every image goes to the cloud"
entry = "cifar10-alexnet"

[[node]]
network = "cifar10-alexnet"
site = "device"
jumps = ["cifar10-resnet"]
policy = { kind = "go-on" }

[[node]]
network = "cifar10-resnet"
site = "cloud"
"#;

/// A program between devices and replicas. FRONT, FOLDER, SERVERS and, in the line of a server, NAME, CALLS and
/// PORT stand for what a test puts there.
struct ProxyKind {
    program: &'static str,
    /// What comes before the file of the configuration; in the foreground, as one process.
    arguments: &'static [&'static str],
    config: &'static str,
    server: &'static str,
}

/// Ends TLS and balances calls over connections of its own.
const HAPROXY_CALLS: ProxyKind = ProxyKind {
    program: "haproxy",
    arguments: &["-db", "-f"],
    config: r#"
global
    tune.bufsize 131072
frontend outpost
    mode http
    bind FRONT ssl crt "FOLDER/proxy.pem" alpn h2
    timeout client 1h
    default_backend outpost
backend outpost
    mode http
    balance leastconn
    timeout connect 250ms
    timeout server 1h
    option httpchk GET /readyz
    option redispatch 1
    retry-on conn-failure empty-response
    default-server ssl verify required ca-file "FOLDER/ca.pem" verifyhost localhost sni str(localhost) alpn h2
    default-server check no-check-ssl inter 500ms observe layer4 error-limit 1 on-error mark-down
SERVERS"#,
    server: "    server NAME CALLS port PORT\n",
};

/// Ends TLS and balances calls. It repeats none, nor looks at health but by the calls themselves: a device asks once more.
const NGINX_CALLS: ProxyKind = ProxyKind {
    program: "nginx",
    arguments: &["-e", "stderr", "-c"],
    config: r#"
daemon off;
master_process off;
pid "FOLDER/nginx.pid";
events {}
http {
    access_log off;
    client_body_temp_path "FOLDER/body";
    proxy_temp_path "FOLDER/proxy";
    fastcgi_temp_path "FOLDER/fastcgi";
    uwsgi_temp_path "FOLDER/uwsgi";
    scgi_temp_path "FOLDER/scgi";
    upstream outpost {
SERVERS
        keepalive 16;
    }
    server {
        listen FRONT ssl http2;
        ssl_certificate "FOLDER/server.pem";
        ssl_certificate_key "FOLDER/server.key";
        client_max_body_size 17m;
        location / {
            grpc_pass grpcs://outpost;
            grpc_ssl_protocols TLSv1.2 TLSv1.3;
            grpc_ssl_verify on;
            grpc_ssl_trusted_certificate "FOLDER/ca.pem";
            grpc_ssl_name localhost;
            grpc_read_timeout 120s;
        }
    }
}
"#,
    server: "        server CALLS fail_timeout=1s;\n",
};

/// Passes on what comes, TLS and all.
const HAPROXY_CONNECTIONS: ProxyKind = ProxyKind {
    program: "haproxy",
    arguments: &["-db", "-f"],
    config: r#"
listen outpost
    mode tcp
    bind FRONT
    balance roundrobin
    timeout client 1h
    timeout connect 250ms
    timeout server 1h
    option httpchk GET /readyz
    option redispatch 1
    default-server check inter 500ms observe layer4 error-limit 1 on-error mark-down
SERVERS"#,
    server: "    server NAME CALLS port PORT\n",
};

/// A port of loopback that stays this test's own while nobody listens there: others who ask for any port get
/// another one, and who asks for this one gets it.
struct Port(TcpSocket);

impl Port {
    fn reserve() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// A replica, with addresses that outlive its process.
struct Replica {
    calls: Port,
    operations: Port,
    service: CloudService,
}

impl Replica {
    fn start(certificates: &CertificateFolder) -> Self {
        let (calls, operations) = (Port::reserve(), Port::reserve());
        let service = Self::service(certificates, &calls, &operations);
        Self {
            calls,
            operations,
            service,
        }
    }

    fn service(certificates: &CertificateFolder, calls: &Port, operations: &Port) -> CloudService {
        let text = format!(
            "address = \"{}\"\noperations_address = \"{}\"\nmodels = {:?}\nnetworks = [\"{NETWORK}\"]\n\
             http3 = false\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n",
            calls.address(),
            operations.address(),
            repository().join("models"),
        );
        CloudService::start_from(certificates, &text, |_| {})
    }

    /// Calls that it has answered since it was started.
    fn answered(&self) -> f64 {
        let mut stream = TcpStream::connect(self.operations.address()).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.lines()
            .filter(|line| line.starts_with("outpost_cloud_requests_total{"))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }

    /// Ends as an operator has it end, and starts again.
    fn roll(self, certificates: &CertificateFolder) -> Self {
        let Self {
            calls,
            operations,
            service,
        } = self;
        service.terminate();
        let (ended_well, log) = service.wait();
        assert!(ended_well && !log.contains("cut off"), "{log}");
        let service = Self::service(certificates, &calls, &operations);
        Self {
            calls,
            operations,
            service,
        }
    }
}

/// A running proxy, ended when dropped.
struct Proxy {
    process: Child,
    log: PathBuf,
}

impl Proxy {
    /// Starts a program and waits until it listens.
    fn start(
        kind: &ProxyKind,
        program: &Path,
        front: SocketAddr,
        replicas: [&Replica; 3],
        certificates: &CertificateFolder,
    ) -> Self {
        let pem = [certificates.chain(), certificates.key()];
        let pem = pem.map(|file| fs::read_to_string(file).unwrap());
        fs::write(certificates.file("proxy.pem"), pem.concat()).unwrap();
        let server = |(number, replica): (usize, &Replica)| {
            kind.server
                .replace("NAME", &format!("replica-{number}"))
                .replace("CALLS", &replica.calls.address().to_string())
                .replace("PORT", &replica.operations.address().port().to_string())
        };
        let servers: String = replicas.into_iter().enumerate().map(server).collect();
        let folder = certificates.file("");
        let config = kind
            .config
            .replace("FRONT", &front.to_string())
            .replace("FOLDER/", folder.to_str().unwrap())
            .replace("SERVERS", &servers);
        let file = certificates.file("proxy.conf");
        fs::write(&file, config).unwrap();

        let log = certificates.file("proxy.log");
        let output = File::create(&log).unwrap();
        let mut command = Command::new(program);
        command.args(kind.arguments).arg(&file).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let process = command.spawn().unwrap();
        let mut proxy = Self { process, log };
        let started = Instant::now();
        while TcpStream::connect(front).is_err() {
            let ended = proxy.process.try_wait().unwrap();
            if ended.is_some() || started.elapsed() > PATIENCE {
                panic!("{command:?}: {}", proxy.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        proxy
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Devices that ask about one image after another until they are told to stop.
struct Devices {
    answers: Receiver<Value>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    seen: Vec<Value>,
}

impl Devices {
    fn start(front: SocketAddr, certificates: &CertificateFolder) -> Self {
        let (sender, answers) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let device = |_| {
            let mut command = edge_agent(front, certificates).args(["-"]).into_command();
            let (sender, stop) = (sender.clone(), stop.clone());
            thread::spawn(move || ask_steadily(&mut command, &sender, &stop))
        };
        Self {
            threads: (0..DEVICES).map(device).collect(),
            answers,
            stop,
            seen: Vec::new(),
        }
    }

    /// Waits until they have got so many more answers.
    fn get(&mut self, more: usize) {
        self.seen.extend(self.answers.try_iter());
        for _ in 0..more {
            let answer = self.answers.recv_timeout(PATIENCE);
            self.seen.push(answer.expect("a device gets no answers"));
        }
    }

    /// Ends them and gives all answers.
    fn finish(mut self) -> Vec<Value> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.seen.extend(self.answers.try_iter());
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One device: an image more for each answer, and one answer for each image.
fn ask_steadily(command: &mut Command, answers: &Sender<Value>, stop: &AtomicBool) {
    let mut agent = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = agent.stdin.take();
    let mut images = some_cifar(usize::MAX).into_iter().cycle();
    let mut asked = 0;
    let mut ask = |stdin: &mut Option<ChildStdin>| {
        if stop.load(Ordering::Relaxed) {
            *stdin = None;
        }
        if let Some(stdin) = stdin {
            writeln!(stdin, "{}", images.next().unwrap().display()).unwrap();
            asked += 1;
        }
    };
    for _ in 0..AT_HAND {
        ask(&mut stdin);
    }
    let mut answered = 0;
    for line in BufReader::new(agent.stdout.take().unwrap()).lines() {
        answered += 1;
        // Nobody listens any more where the test has failed.
        let _ = answers.send(serde_json::from_str(&line.unwrap()).unwrap());
        ask(&mut stdin);
    }
    let mut log = String::new();
    agent
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(agent.wait().unwrap().success(), "{log}");
    assert_eq!(answered, asked, "{log}");
    // Only what went wrong is logged.
    print!("{log}");
}

fn edge_agent(front: SocketAddr, certificates: &CertificateFolder) -> EdgeAgent {
    EdgeAgent::classify()
        .cloud(&format!("https://{front}"), certificates)
        .args([
            "--config".as_ref(),
            certificates.file("edge-agent.toml").as_os_str(),
        ])
        .args(["--transport", "h2", "--mode", "cloud-only"])
}

/// The program, or a loud word that the test did not run.
fn installed(test: &str, program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Not everybody has the folders of daemons among theirs.
    let daemons = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    let found = env::split_paths(&path)
        .chain(daemons)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file());
    if found.is_none() {
        let required = env::var("OUTPOST_REQUIRE_PROXY").unwrap_or_default();
        assert!(
            !required.split(' ').any(|required| required == program),
            "{program} is required and is not installed"
        );
        eprintln!("SKIPPED {test}: {program} is not installed");
    }
    found
}

/// Kills a replica, rolls another while the first is away, and has the first come back, all under load.
fn no_call_is_lost(kind: &ProxyKind, test: &str) {
    let Some(program) = installed(test, kind.program) else {
        return;
    };
    let certificates = CertificateFolder::valid();
    let models = repository().join("models");
    let cascade = certificates.file("cascade.toml");
    fs::write(&cascade, CASCADE).unwrap();
    fs::write(
        certificates.file("edge-agent.toml"),
        format!("models = {models:?}\ncascade = {cascade:?}\nmax_in_flight = {AT_HAND}\n"),
    )
    .unwrap();
    let [mut killed, mut rolled, left] = [0; 3].map(|_| Replica::start(&certificates));
    let front = Port::reserve();
    let replicas = [&killed, &rolled, &left];
    let proxy = Proxy::start(kind, &program, front.address(), replicas, &certificates);

    let mut devices = Devices::start(front.address(), &certificates);
    let begun = Instant::now();
    // Until the last device to start has a connection too.
    while replicas.iter().any(|replica| replica.answered() == 0.0) {
        assert!(begun.elapsed() < PATIENCE, "a replica is left out");
        devices.get(AT_HAND);
    }
    devices.get(STEADY);
    killed.service.kill();
    devices.get(STEADY);
    rolled = rolled.roll(&certificates);
    devices.get(STEADY);
    killed.service = Replica::service(&certificates, &killed.calls, &killed.operations);
    let back = Instant::now();
    while killed.answered() == 0.0 || rolled.answered() == 0.0 {
        assert!(back.elapsed() < PATIENCE, "a replica is not taken back");
        // Connections last, and who connects now may get one that is back.
        let newcomer = edge_agent(front.address(), &certificates).args(some_cifar(1));
        devices.seen.extend(newcomer.run().records);
    }
    devices.get(STEADY);

    let answers = devices.finish();
    let mut lost = BTreeMap::<_, usize>::new();
    let mut slowest = 0.0_f64;
    for answer in &answers {
        slowest = slowest.max(answer["total_ms"].as_f64().unwrap());
        let reason = answer["reason"].as_str().unwrap();
        if reason != "offloaded" {
            *lost.entry(reason).or_default() += 1;
        }
    }
    let count = answers.len();
    println!(
        "{count} answers, the slowest after {slowest:.0} ms\n{}",
        proxy.log()
    );
    assert!(lost.is_empty(), "of {count} calls were lost: {lost:?}");
}

#[test]
fn no_call_is_lost_behind_haproxy_that_balances_calls() {
    let test = "no_call_is_lost_behind_haproxy_that_balances_calls";
    no_call_is_lost(&HAPROXY_CALLS, test);
}

#[test]
fn no_call_is_lost_behind_haproxy_that_passes_tls_through() {
    let test = "no_call_is_lost_behind_haproxy_that_passes_tls_through";
    no_call_is_lost(&HAPROXY_CONNECTIONS, test);
}

#[test]
fn no_call_is_lost_behind_nginx_that_balances_calls() {
    let test = "no_call_is_lost_behind_nginx_that_balances_calls";
    no_call_is_lost(&NGINX_CALLS, test);
}
