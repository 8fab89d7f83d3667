//! A program that runs beside the test, and is killed with it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

/// A running program.
pub struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Process {
    /// Starts a program, whose output is taken.
    pub fn start(command: &mut Command) -> Self {
        Self::start_as(command, |_| {})
    }

    /// Starts a program that `adjust` may change, but for its standard output.
    pub fn start_as(command: &mut Command, adjust: impl FnOnce(&mut Command)) -> Self {
        command.stderr(Stdio::piped());
        adjust(command);
        command.stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            stdout: BufReader::new(child.stdout.take().unwrap()),
            stderr: child.stderr.take(),
            child,
        }
    }

    /// The next line that it prints; for an address in a line `… scheme://ADDRESS`, that address.
    ///
    /// # Panics
    /// Where it has ended instead; with what it said.
    pub fn address(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let Some((_, address)) = line.trim().rsplit_once("://") else {
            let mut said = String::new();
            if let Some(mut stderr) = self.stderr.take() {
                stderr.read_to_string(&mut said).unwrap();
            }
            panic!("the program did not start: {line}{said}");
        };
        address.to_owned()
    }

    /// Its identifier.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, as an operator would, without waiting.
    ///
    /// # Panics
    /// When `kill` is not installed.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Has it read its files again.
    ///
    /// # Panics
    /// When `kill` is not installed.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// Has it do nothing at all, until [`Self::thaw`]: to others it is silent.
    ///
    /// # Panics
    /// When `kill` is not installed.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Has it go on.
    ///
    /// # Panics
    /// When `kill` is not installed.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Sends it a signal, such as `-STOP`.
    ///
    /// # Panics
    /// When `kill` is not installed.
    pub fn signal(&self, signal: &str) {
        let process = self.child.id().to_string();
        let killed = Command::new("kill").args([signal, &process]).status();
        assert!(killed.unwrap().success());
    }

    /// Waits for its end; gives whether it ended well and what it logged.
    pub fn wait(mut self) -> (bool, String) {
        let mut said = String::new();
        if let Some(mut stderr) = self.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        self.stdout.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().success(), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
