//! Calls that are made up, and devices that are.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use super::{super::agent, *};

const DEATH: Death = Death {
    killed: Duration::from_secs(10),
    ready: Duration::from_secs(11),
};

/// A call from one to another time, in milliseconds.
fn call(called_ms: u64, ended_ms: u64, why: Why) -> Unanswered {
    Unanswered {
        called: Duration::from_millis(called_ms),
        ended: Duration::from_millis(ended_ms),
        why,
    }
}

fn judged(unanswered: &[Unanswered]) -> (Outcome, String) {
    let verdict = answered(100, unanswered, &[DEATH]);
    (verdict.outcome, verdict.found)
}

#[test]
fn calls_in_vain_are_allowed_while_the_device_is_dead() {
    let calls = [
        call(9_900, 10_000, Why::Cut),
        call(10_500, 10_500, Why::Refused),
        call(10_999, 11_400, Why::Refused),
    ];
    let (outcome, found) = judged(&calls);
    assert_eq!(outcome, Outcome::Holds, "{found}");
    assert_eq!(
        found,
        "100 of 103 answered; 3 in vain as it was dead, 0 told to come back (503)"
    );
}

#[test]
fn calls_in_vain_are_faults_while_the_device_lives() {
    for (called, ended) in [(9_000, 9_999), (11_001, 11_001), (10_500, 11_501)] {
        for why in [Why::Cut, Why::Refused] {
            let call = call(called, ended, why);
            let (outcome, found) = judged(std::slice::from_ref(&call));
            assert_eq!(outcome, Outcome::Broken, "{found}");
            assert!(found.contains(&call.to_string()), "{found}");
        }
    }
}

#[test]
fn statuses_and_time_outs_are_faults_also_while_the_device_is_dead() {
    for why in [
        Why::TimedOut,
        Why::Status(500, "see the program's log".to_owned()),
        Why::Status(503, "nobody could answer".to_owned()),
        Why::NoAnswer("<html>".to_owned()),
        Why::Other("bad uri".to_owned()),
    ] {
        for at in [5_000, 10_500] {
            let (outcome, found) = judged(&[call(at, at, why.clone())]);
            assert_eq!(outcome, Outcome::Broken, "{found}");
        }
    }
}

#[test]
fn backpressure_is_counted_and_no_fault() {
    let (outcome, found) = judged(&[call(5_000, 5_001, Why::Backpressure)]);
    assert_eq!(outcome, Outcome::Holds);
    assert!(found.contains("1 told to come back"), "{found}");
}

#[test]
fn a_device_that_answers_no_call_is_at_fault() {
    let refused = call(10_500, 10_500, Why::Refused);
    for unanswered in [&[][..], &[refused]] {
        let verdict = answered(0, unanswered, &[DEATH]);
        assert_eq!(verdict.outcome, Outcome::Broken);
        assert!(verdict.found.contains("none of"), "{}", verdict.found);
    }
}

#[test]
fn the_first_faults_are_listed() {
    let failed = |at| call(at, at + 4, Why::Status(500, "see the log".to_owned()));
    let calls: Vec<_> = (1..=5).map(|second| failed(1_000 * second)).collect();
    assert_eq!(
        judged(&calls).1,
        "5 of 105 not; 0 in vain as it was dead, 0 told to come back (503);\n\
             at 1.0 s, after 4 ms: status 500, see the log;\n\
             at 2.0 s, after 4 ms: status 500, see the log;\n\
             at 3.0 s, after 4 ms: status 500, see the log;\n\
             …"
    );
}

/// What a caller is told by a device that does this with its connection.
fn called(device: impl FnOnce(TcpStream) + Send) -> Result<Said, Why> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| device(listener.accept().unwrap().0));
        let agent = agent(Duration::from_millis(500));
        answer(agent.post(url).send(b"image"))
    })
}

/// The same by one that replies with a status and a body.
fn replied(status: &str, body: &str) -> Result<Said, Why> {
    called(|mut connection| {
        read_call(&mut connection);
        let length = body.len();
        write!(
            connection,
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
    })
}

fn read_call(connection: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"image") {
        let mut some = [0; 1024];
        let length = connection.read(&mut some).unwrap();
        read.extend_from_slice(&some[..length]);
    }
}

#[test]
fn a_reply_is_an_answer_or_says_why_not() {
    let event = r#"{"image": "a", "kind": "answer", "final": true}"#;
    assert_eq!(replied("200 OK", event).unwrap().image, "a");
    let no_answer = replied("200 OK", "<html>").unwrap_err();
    assert_eq!(no_answer, Why::NoAnswer("<html>".to_owned()));
    let status = |status: u16, said: &str| Why::Status(status, said.to_owned());
    for (first_line, body, why) in [
        ("500 Error", r#"{"detail": "log"}"#, status(500, "log")),
        ("422 Error", "no JSON", status(422, "no JSON")),
        ("503 Error", r#"{"detail": "ends"}"#, status(503, "ends")),
        (
            "503 Error",
            r#"{"detail": "too many (`api.max_waiting`)"}"#,
            Why::Backpressure,
        ),
    ] {
        assert_eq!(replied(first_line, body).unwrap_err(), why);
    }
}

#[test]
fn a_connection_that_fails_says_how() {
    // Closed at once, after the call, and within the reply.
    assert_eq!(called(drop).unwrap_err(), Why::Cut);
    let ends = |mut connection: TcpStream| read_call(&mut connection);
    assert_eq!(called(ends).unwrap_err(), Why::Cut);
    let within = |mut connection: TcpStream| {
        read_call(&mut connection);
        let part = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
        connection.write_all(part).unwrap();
    };
    assert_eq!(called(within).unwrap_err(), Why::Cut);
    let is_silent = |mut connection: TcpStream| {
        // Until the caller goes.
        let _ = connection.read_to_end(&mut Vec::new());
    };
    assert_eq!(called(is_silent).unwrap_err(), Why::TimedOut);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let agent = agent(Duration::from_secs(10));
    let reply = answer(agent.post(url).send(b"image"));
    assert_eq!(reply.unwrap_err(), Why::Refused);
}
