//! HTTP probes, against nginx and against servers that go wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vipdp::health::{HttpProbe, ProbeConfig};

use crate::lab::{AMPLE, Program, VIP, ask, assert_gives_up, in_a_namespace, port, view};

/// /chunked is sent in chunks, since nginx does not know how long it will be.
const CONFIG: &str = r#"
daemon off;
master_process off;
user root;
pid DIRECTORY/pid;
error_log stderr crit;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path DIRECTORY/body;
    proxy_temp_path DIRECTORY/proxy;
    fastcgi_temp_path DIRECTORY/fastcgi;
    uwsgi_temp_path DIRECTORY/uwsgi;
    scgi_temp_path DIRECTORY/scgi;
    server {
        listen 0.0.0.0:80 default_server;
        listen [::]:80 default_server;
        location = / { return 200 "It works!\n"; }
        location = /empty { return 204; }
        location = /elsewhere { return 302 http://192.0.2.53/; }
        location = /ill { return 503 "It works not.\n"; }
        location = /host { return 200 "asked as <$http_host> by <$http_user_agent>"; }
        location = /chunked { root DIRECTORY; ssi on; ssi_types *; }
    }
    server {
        listen 0.0.0.0:443 ssl;
        listen 0.0.0.0:8443 ssl;
        ssl_certificate DIRECTORY/certificate.pem;
        ssl_certificate_key DIRECTORY/key.pem;
        location / { return 200 "named <$ssl_server_name>, asked as <$http_host>"; }
    }
}
"#;

fn nginx() -> Program {
    let key = tempfile::tempdir().unwrap();
    let [key_file, certificate] = ["key.pem", "certificate.pem"].map(|name| key.path().join(name));
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args(["-subj", "/CN=www.example", "-addext", "subjectAltName=DNS:www.example"])
        .args([std::ffi::OsStr::new("-keyout"), key_file.as_os_str()])
        .args([std::ffi::OsStr::new("-out"), certificate.as_os_str()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let [key, certificate] =
        [key_file, certificate].map(|file| std::fs::read_to_string(file).unwrap());
    let chunked = "a".repeat(20_000) + "needle" + &"b".repeat(20_000);
    let files = [
        ("nginx.conf", CONFIG),
        ("key.pem", &key),
        ("certificate.pem", &certificate),
        ("chunked", &chunked),
    ];
    Program::start("nginx -c DIRECTORY/nginx.conf -p DIRECTORY", &files)
        .listening(SocketAddr::new(VIP.parse().unwrap(), 443))
}

fn asks(path: &str) -> HttpProbe {
    HttpProbe {
        secure: false,
        address: SocketAddr::new(VIP.parse().unwrap(), 80),
        host: VIP.into(),
        path: path.into(),
        statuses: [200].into(),
        body: None,
        verify: true,
    }
}

fn found(probe: HttpProbe) -> Result<(), String> {
    ask(&ProbeConfig::Http(probe))
}

fn with_body(path: &str, body: &str) -> HttpProbe {
    HttpProbe { body: Some(body.into()), ..asks(path) }
}

fn error(text: &str) -> Result<(), String> {
    Err(text.to_owned())
}

#[test]
fn a_server_is_judged_by_its_status_and_its_body() {
    in_a_namespace(|| {
        let _nginx = nginx();
        assert_eq!(found(asks("/")), Ok(()));
        assert_eq!(found(with_body("/", "works")), Ok(()));
        assert_eq!(found(with_body("/", "It works!\n")), Ok(()));
        assert_eq!(
            found(with_body("/", "works not")),
            error("the body does not hold \"works not\"")
        );
        assert_eq!(found(asks("/ill")), error("status 503"));
        assert_eq!(found(asks("/nothing")), error("status 404"));
        assert_eq!(found(asks("/elsewhere")), error("status 302"), "redirections are not followed");
        let statuses: Box<[u16]> = [200, 204, 302].into();
        for path in ["/", "/empty", "/elsewhere"] {
            assert_eq!(found(HttpProbe { statuses: statuses.clone(), ..asks(path) }), Ok(()));
        }
        let empty = HttpProbe { statuses, ..with_body("/empty", "works") };
        assert_eq!(found(empty), error("the body does not hold \"works\""));
        let over_v6 = HttpProbe { address: "[::1]:80".parse().unwrap(), ..asks("/") };
        assert_eq!(found(over_v6), Ok(()));
    });
}

#[test]
fn a_body_in_chunks_is_read_as_one_text() {
    in_a_namespace(|| {
        let _nginx = nginx();
        assert_eq!(found(with_body("/chunked", "aneedleb")), Ok(()));
        assert!(found(with_body("/chunked", "needles")).is_err());
    });
}

#[test]
fn the_server_is_called_what_the_check_calls_it() {
    in_a_namespace(|| {
        let _nginx = nginx();
        let agent = format!("by <vipdp/{}>", env!("CARGO_PKG_VERSION"));
        let named = HttpProbe { host: "www.example".into(), ..with_body("/host", &agent) };
        assert_eq!(found(named), Ok(()));
        let named = |host: &str| HttpProbe {
            host: host.into(),
            ..with_body("/host", &format!("asked as <{host}>"))
        };
        for host in [VIP, "www.example", "www.example:8080", "[2001:db8::1]"] {
            assert_eq!(found(named(host)), Ok(()), "{host}");
        }
    });
}

#[test]
fn over_tls_the_certificate_counts_unless_the_check_says_otherwise() {
    in_a_namespace(|| {
        let _nginx = nginx();
        let secure = |port, verify, host: &str| HttpProbe {
            secure: true,
            address: SocketAddr::new(VIP.parse().unwrap(), port),
            host: host.into(),
            verify,
            ..with_body("/", &format!("asked as <{host}>"))
        };
        assert_eq!(found(secure(443, false, "www.example")), Ok(()));
        assert_eq!(found(secure(8443, false, "www.example:8443")), Ok(()));
        assert_eq!(found(secure(443, false, VIP)), Ok(()), "by its address");
        let named = HttpProbe {
            body: Some("named <www.example>".into()),
            ..secure(8443, false, "www.example:8443")
        };
        assert_eq!(found(named), Ok(()));
        let strange = found(secure(443, true, "www.example")).unwrap_err();
        assert!(strange.contains("invalid peer certificate"), "{strange}");
        let plain =
            HttpProbe { address: "192.0.2.53:80".parse().unwrap(), ..secure(80, false, VIP) };
        let plain = found(plain).unwrap_err();
        assert!(plain.contains("corrupt message"), "{plain}");
    });
}

/// A server that reads the request, then does `answer`, once.
fn server(
    answer: impl FnOnce(std::net::TcpStream) + Send + 'static,
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let address = SocketAddr::new(VIP.parse().unwrap(), port());
    let listener = TcpListener::bind(address).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        answer(stream);
    });
    (address, server)
}

#[test]
fn what_is_no_http_is_an_error() {
    in_a_namespace(|| {
        let answers = [
            (&b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..], "no HTTP response: "),
            (b"HTTP/1.1 200 OK\r\nContent-", "the response ends within its head"),
            (b"", "the response ends within its head"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nIt", "the body does not hold"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP response: "),
        ];
        for (answer, expected) in answers {
            let (address, server) = server(|mut stream| stream.write_all(answer).unwrap());
            let error = found(HttpProbe { address, ..with_body("/", "works") }).unwrap_err();
            assert!(error.starts_with(expected), "{answer:?}: {error}");
            server.join().unwrap();
        }
        let old = b"HTTP/1.0 200 OK\r\n\r\nIt works";
        let (address, server) = server(|mut stream| stream.write_all(old).unwrap());
        assert_eq!(found(HttpProbe { address, ..with_body("/", "works") }), Ok(()));
        server.join().unwrap();
    });
}

#[test]
fn a_response_without_end_is_not_read_to_its_end() {
    in_a_namespace(|| {
        let endless = |start: &'static [u8], line: &'static [u8]| {
            move |mut stream: std::net::TcpStream| {
                let lines = line.repeat(1000);
                let mut sent = stream.write_all(start);
                // Until the check has closed the connection.
                while sent.is_ok() {
                    sent = stream.write_all(&lines);
                }
            }
        };
        let (address, head) = server(endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"));
        let error = found(HttpProbe { address, ..asks("/") }).unwrap_err();
        assert!(error.contains("head") || error.contains("header"), "{error}");
        head.join().unwrap();
        let (address, body) = server(endless(b"HTTP/1.1 200 OK\r\n\r\n", b"more\r\n"));
        let error = found(HttpProbe { address, ..with_body("/", "works") }).unwrap_err();
        assert_eq!(error, "the body does not hold \"works\"");
        body.join().unwrap();
    });
}

#[test]
fn a_server_that_takes_its_time_byte_by_byte_is_given_up() {
    in_a_namespace(|| {
        for secure in [false, true] {
            let over = Arc::new(AtomicBool::new(false));
            let stop = Arc::clone(&over);
            let address = SocketAddr::new(VIP.parse().unwrap(), port());
            let listener = TcpListener::bind(address).unwrap();
            let slow = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // Of a head, or of a record of TLS, that would take minutes.
                let text =
                    if secure { &b"\x16\x03\x03\x3f\xff"[..] } else { b"HTTP/1.1 200 OK\r\nX: " };
                let _ = stream.write_all(text);
                while !stop.load(Ordering::Relaxed) {
                    // The check may have closed the connection.
                    let _ = stream.write_all(b"y");
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let probe = HttpProbe { address, secure, verify: false, ..asks("/") };
            assert_gives_up(&ProbeConfig::Http(probe));
            over.store(true, Ordering::Relaxed);
            slow.join().unwrap();
        }
    });
}

#[test]
fn a_tcp_check_tells_an_open_port_from_a_closed_one() {
    in_a_namespace(|| {
        let address = SocketAddr::new(VIP.parse().unwrap(), port());
        let listener = TcpListener::bind(address).unwrap();
        assert_eq!(ask(&ProbeConfig::Tcp(address)), Ok(()));
        drop(listener);
        let refused = ask(&ProbeConfig::Tcp(address));
        let expected = format!("no connection to {address}: Connection refused (os error 111)");
        assert_eq!(refused, Err(expected));
        let nowhere = view(&ProbeConfig::Tcp("203.0.113.1:53".parse().unwrap()), AMPLE);
        let error = nowhere.last_error.unwrap().1;
        assert!(error.ends_with("Network is unreachable (os error 101)"), "{error}");
    });
}
