//! What instances use: as nodes measure it, `rikctl top` shows it and Prometheus reads it.

use e2e::http;
use e2e::lab::NODE;
use e2e::manifest::script;
use e2e::{LONG, story, wait_until};

/// Value of the metric whose line begins so.
fn value(page: &str, begin: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(begin)?.trim().parse().ok())
}

#[test]
fn busy_container_is_seen_to_be_busy() {
    story(|lab| {
        let api = lab.cluster();
        // It fills memory that is its own, and never rests.
        let words = "x=$(busybox head -c 20000000 /dev/zero | busybox tr '\\0' x); while :; do :; done";
        api.run(&script("busy", words));
        let page = || {
            let server = "127.0.0.1:5000".parse().expect("an address");
            let answer = http::request(server, "GET", "/metrics", &[], b"").expect("it answers");
            assert_eq!(answer.status, 200);
            answer.body
        };
        let labels = format!("{{node=\"{NODE}\",instance=\"busy\",container=\"busy\"}}");
        wait_until(LONG, "its use to be seen", || {
            let page = page();
            let cpu = value(&page, &format!("rik_container_cpu_seconds_total{labels}"));
            let memory = value(&page, &format!("rik_container_memory_bytes{labels}"));
            let seen = cpu.is_some_and(|cpu| cpu > 0.5) && memory.is_some_and(|memory| memory > 2e7);
            if seen { Ok(()) } else { Err(format!("{cpu:?} {memory:?}")) }
        });
        let page = page();
        assert_eq!(value(&page, &format!("rik_node_ready{{node=\"{NODE}\"}}")), Some(1.0), "{page}");
        assert_eq!(value(&page, "rik_instances{status=\"Running\"}"), Some(1.0), "{page}");
        let restarts = "rik_instance_restarts_total{instance=\"busy\",workload=\"busy\"}";
        assert_eq!(value(&page, restarts), Some(0.0), "{page}");
        wait_until(LONG, "a rate", || {
            let top = lab.rikctl(&["top", "instances", "busy", "--no-headers"]).good();
            let cpu =
                top.split_whitespace().nth(2).and_then(|cpu| cpu.strip_suffix('m')?.parse::<u64>().ok());
            if cpu > Some(100) { Ok(()) } else { Err(top) }
        });
        assert!(lab.rikctl(&["top", "--containers"]).good().contains("busy"));
        assert!(lab.rikctl(&["top", "nodes"]).good().contains(NODE));
        let said = lab.rikctl(&["top", "instances", "absent"]).bad(1);
        assert!(said.contains("there is no measurement of instance \"absent\""), "{said}");
    });
}
