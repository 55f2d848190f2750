//! What the server answers: the page, the health check and the refusals, as complete HTTP/1.1 responses.

use std::fs;

/// One answer, ready to be written.
pub(crate) struct Reply {
    /// Status code and reason, as in the status line.
    pub(crate) status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Reply {
    /// The friendly page: which container answers, and how many requests it has answered.
    pub(crate) fn welcome(host: &str, requests: u64) -> Self {
        let host = escape(host);
        let body = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>RIK</title></head>\n<body>\n\
             <h1>RIK runs your container</h1>\n<p>Container: <b>{host}</b></p>\n<p>Requests served: {requests}</p>\n\
             </body>\n</html>\n"
        );
        Self { status: "200 OK", content_type: "text/html; charset=utf-8", body }
    }

    /// The answer to a health check.
    pub(crate) fn healthy() -> Self {
        Self { status: "200 OK", content_type: "text/plain; charset=utf-8", body: "ok\n".into() }
    }

    /// The answer to anything but GET and HEAD.
    pub(crate) fn not_allowed() -> Self {
        Self {
            status: "405 Method Not Allowed",
            content_type: "text/plain; charset=utf-8",
            body: "only GET and HEAD are answered here\n".into(),
        }
    }

    /// The whole response. `HEAD` requests get the same head without the body.
    pub(crate) fn to_http(&self, head_only: bool) -> String {
        let Self { status, content_type, body } = self;
        let length = body.len();
        let body = if head_only { "" } else { body };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
    }
}

/// Method and path of a request head; empty strings where the head has none.
pub(crate) fn request_line(head: &str) -> (&str, &str) {
    let mut words = head.lines().next().unwrap_or_default().split_ascii_whitespace();
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

/// The name of this container, as the kernel gives it.
pub(crate) fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "(without a name)".into(),
        name => name.into(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welcome_names_the_container_and_counts() {
        let text = Reply::welcome("web-1", 7).to_http(false);
        assert!(text.contains("RIK runs your container"));
        assert!(text.contains("<b>web-1</b>"));
        assert!(text.contains("Requests served: 7"));
    }

    #[test]
    fn head_request_gets_the_length_without_the_body() {
        let text = Reply::healthy().to_http(true);
        assert!(text.contains("Content-Length: 3\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn hostile_hostname_is_shown_as_text() {
        assert!(Reply::welcome("<script>", 1).to_http(false).contains("&lt;script&gt;"));
    }

    #[test]
    fn broken_request_line_has_an_empty_path() {
        assert_eq!(request_line(""), ("", ""));
        assert_eq!(request_line("GET\r\n"), ("GET", ""));
        assert_eq!(request_line("GET / HTTP/1.1\r\nHost: x"), ("GET", "/"));
    }
}
