//! A small HTTP server that answers each connection with the next reply of a list.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// No peer here needs longer; a test that hangs ends with an error.
const IO_TIMEOUT: Duration = Duration::from_secs(10);

/// One answer, after which the connection is closed.
pub(crate) struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
    /// Bytes of the body that are sent.
    sent: usize,
}

/// A running server.
pub(crate) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Reply {
    /// All of `body`.
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self {
            status: 200,
            headers: format!("Content-Length: {}\r\n", body.len()),
            body: body.to_vec(),
            sent: body.len(),
        }
    }

    /// `whole` from byte `start`.
    pub(crate) fn partial(whole: &[u8], start: usize) -> Self {
        let total = whole.len();
        let reply = Self::ok(&whole[start..]);
        Self {
            status: 206,
            headers: format!(
                "{}Content-Range: bytes {start}-{}/{total}\r\n",
                reply.headers,
                total - 1
            ),
            ..reply
        }
    }

    /// A status and no body.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::ok(b"")
        }
    }

    /// Closes the connection after `bytes` of the body.
    pub(crate) fn cut_after(self, bytes: usize) -> Self {
        Self {
            sent: bytes,
            ..self
        }
    }

    /// States no length: the body ends with the connection.
    pub(crate) fn without_length(self) -> Self {
        Self {
            headers: String::new(),
            ..self
        }
    }

    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        write!(
            stream,
            "HTTP/1.1 {} -\r\n{}Connection: close\r\n\r\n",
            self.status, self.headers
        )?;
        stream.write_all(&self.body[..self.sent])
    }
}

impl Server {
    /// Answers one connection a reply, in order; then, or when told to, it ends.
    pub(crate) fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut requests = Vec::new();
            for reply in replies {
                let (mut stream, _) = listener.accept().unwrap();
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                stream.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
                stream.set_write_timeout(Some(IO_TIMEOUT)).unwrap();
                requests.push(read_head(&mut stream));
                // A client that refuses the body hangs up before its end.
                let _ = reply.send(&mut stream);
            }
            requests
        });
        Self {
            address,
            stop,
            thread,
        }
    }

    /// The address that a file's name is added to.
    pub(crate) fn base(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Ends the server and gives the heads of the requests there were, in lower case.
    pub(crate) fn requests(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the server if it waits for a connection; if it has ended, nothing listens.
        let _ = TcpStream::connect(self.address);
        self.thread.join().unwrap()
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).to_lowercase()
}
