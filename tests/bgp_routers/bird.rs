//! BIRD in a router's namespace, with a socket and files of its own.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vipdp_tests::namespace::Namespace;
use vipdp_tests::speaker::SOON;
use vipdp_tests::wait::wait_until;

/// A running BIRD.
pub struct Bird {
    router: Namespace,
    directory: TempDir,
    process: Option<Child>,
}

impl Bird {
    /// Starts BIRD as a router of AS 65001 with `protocols`, and waits until it answers.
    #[track_caller]
    pub fn start(router: &Namespace, protocols: &str) -> Self {
        let directory = TempDir::with_prefix("vdbird").expect("a directory");
        let mut bird = Self { router: router.clone(), directory, process: None };
        bird.write(protocols);
        bird.spawn();
        bird
    }

    fn write(&self, protocols: &str) {
        let config = format!(
            "log stderr all;\nrouter id 10.99.0.2;\nprotocol device {{ scan time 1; }}\n\
             template bgp node {{\n local as 65001;\n hold time 9;\n connect retry time 1;\n \
             connect delay time 1;\n error wait time 1, 2;\n \
             ipv4 {{ import all; export none; }};\n ipv6 {{ import all; export none; }};\n}}\n\
             {protocols}\n"
        );
        fs::write(self.directory.path().join("bird.conf"), config).expect("a file");
    }

    /// Starts it again.
    #[track_caller]
    pub fn spawn(&mut self) {
        let log = fs::File::create(self.directory.path().join("log")).expect("a file");
        let mut command = self.router.command("bird");
        command.arg("-f").arg("-c").arg(self.directory.path().join("bird.conf"));
        command.arg("-s").arg(self.directory.path().join("control"));
        command.arg("-P").arg(self.directory.path().join("pid"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::from(log)).spawn();
        self.process = Some(child.expect("BIRD is installed"));
        wait_until(SOON, "BIRD", || self.try_ask("show status").is_some());
    }

    /// Kills it, without a chance to say a last word.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Has it take other protocols.
    #[track_caller]
    pub fn configure(&self, protocols: &str) {
        self.write(protocols);
        let answer = self.ask("configure");
        assert!(answer.contains("Reconfigur"), "{answer}");
    }

    /// What it answers to a command.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|| panic!("BIRD does not take {command}"))
    }

    fn try_ask(&self, command: &str) -> Option<String> {
        let mut birdc = Command::new("birdc");
        birdc.arg("-s").arg(self.directory.path().join("control")).args(command.split(' '));
        let output = birdc.output().expect("birdc runs");
        // It fails, too, where there is nothing to show.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains(" ready.").then_some(text)
    }

    /// All that it knows of a prefix; empty if it knows no way there.
    #[track_caller]
    pub fn routes(&self, prefix: &str) -> String {
        let known = self.ask(&format!("show route for {prefix} all"));
        if known.contains("BGP.origin") { known } else { String::new() }
    }

    /// Waits until it knows ways to a prefix, or none, by each of its `sessions`, and returns what
    /// it knows.
    #[track_caller]
    pub fn wait_routes(&self, prefix: &str, sessions: &[&str]) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let known = self.routes(prefix);
            let count = known.matches("BGP.origin").count();
            let all = sessions.iter().all(|session| known.contains(&format!("[{session} ")));
            if count == sessions.len() && all {
                return known;
            }
            let ended = Instant::now() >= deadline;
            assert!(
                !ended,
                "ways to {prefix} by {sessions:?}: {known}{}",
                self.ask("show protocols all")
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log"));
            eprintln!("{}", log.unwrap_or_default());
        }
    }
}
