//! A controller that says what a test has written down, and remembers what it was asked.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Method and path with query, without `/api/v1`.
    pub(crate) line: String,
    /// Header names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

type Speech = Arc<dyn Fn(&mut TcpStream) + Send + Sync>;

#[derive(Clone)]
struct Route {
    start: String,
    speech: Speech,
    /// How often it may still be used.
    left: usize,
}

/// The controller. Routes that were added later are tried first, while they last.
pub(crate) struct Controller {
    port: u16,
    routes: Arc<Mutex<Vec<Route>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Controller {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (routes, requests) = (Arc::<Mutex<Vec<Route>>>::default(), Arc::<Mutex<Vec<Request>>>::default());
        let (known, seen) = (Arc::clone(&routes), Arc::clone(&requests));
        // The thread ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (known, seen) = (Arc::clone(&known), Arc::clone(&seen));
                thread::spawn(move || serve(stream, &known, &seen));
            }
        });
        Self { port, routes, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Answers requests that begin with `start`, such as `GET /instances`.
    pub(crate) fn speaks(self, start: &str, speech: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        self.speaks_times(usize::MAX, start, speech)
    }

    /// The same, for the first so many requests only.
    pub(crate) fn speaks_times(
        self,
        times: usize,
        start: &str,
        speech: impl Fn(&mut TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let route = Route { start: start.to_owned(), speech: Arc::new(speech), left: times };
        self.routes.lock().unwrap().push(route);
        self
    }

    pub(crate) fn says(self, start: &str, status: u16, body: impl Into<Value>) -> Self {
        let body = body.into();
        self.speaks(start, move |stream| {
            answer(stream, status, "application/json", body.to_string().as_bytes())
        })
    }

    pub(crate) fn refuses(self, start: &str, status: u16, code: &str, detail: &str) -> Self {
        let problem = json!({ "code": code, "title": "it did not work", "status": status, "detail": detail });
        self.refuses_with(start, problem)
    }

    pub(crate) fn refuses_with(self, start: &str, problem: Value) -> Self {
        let status = u16::try_from(problem["status"].as_u64().unwrap()).unwrap();
        self.speaks(start, move |stream| {
            answer(stream, status, "application/problem+json", problem.to_string().as_bytes());
        })
    }

    /// A watch that tells these changes and then stays silent.
    pub(crate) fn watch(self, start: &str, changes: &[Value]) -> Self {
        let text = messages(changes);
        self.speaks(start, move |stream| {
            event_stream(stream, &text);
            silence(stream);
        })
    }

    /// What it was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The lines of the same.
    pub(crate) fn lines(&self) -> String {
        self.requests().iter().map(|request| format!("{}\n", request.line)).collect()
    }
}

/// The messages of a stream.
pub(crate) fn messages(changes: &[Value]) -> String {
    changes.iter().map(|change| format!("id: {}\ndata: {change}\n\n", change["revision"])).collect()
}

/// Begins a stream, and does not end it.
pub(crate) fn event_stream(stream: &mut TcpStream, text: &str) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: here\n\n";
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes()));
}

/// Says nothing until the other side has gone.
pub(crate) fn silence(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 1]);
}

pub(crate) fn answer(stream: &mut TcpStream, status: u16, kind: &str, body: &[u8]) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn serve(mut stream: TcpStream, routes: &Mutex<Vec<Route>>, requests: &Mutex<Vec<Request>>) {
    let Some(request) = read_request(&stream) else { return };
    let speech = {
        let mut routes = routes.lock().unwrap();
        let found =
            routes.iter_mut().rev().find(|route| route.left > 0 && begins(&request.line, &route.start));
        found.map(|route| {
            route.left -= 1;
            Arc::clone(&route.speech)
        })
    };
    requests.lock().unwrap().push(request.clone());
    match speech {
        Some(speech) => speech(&mut stream),
        None => {
            let problem = json!({ "code": "not-found", "title": "no such thing", "status": 404, "detail": "no such thing" });
            answer(&mut stream, 404, "application/problem+json", problem.to_string().as_bytes());
        }
    }
}

/// `GET /instances` begins `GET /instances?limit=1`, and not `GET /instances/web`.
fn begins(line: &str, start: &str) -> bool {
    line.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with(['?', '&']))
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?, words.next()?);
    let line = format!("{method} {}", target.strip_prefix("/api/v1").unwrap_or(target));
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        reader.take(length.parse().ok()?).read_to_end(&mut body).ok()?;
    } else if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        read_chunks(&mut reader, &mut body)?;
    }
    Some(Request { line, headers, body })
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        if size == 0 {
            return Some(());
        }
        body.extend_from_slice(&chunk[..size]);
    }
}
