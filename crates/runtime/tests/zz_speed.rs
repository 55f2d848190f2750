//! temp
mod node;
use node::{in_namespaces, pod, script};
use runtime::Runtime;
use std::time::Instant;
#[test]
fn speed() {
    in_namespaces("speed", |node| async move {
        let mut p = vec![];
        let mut s = vec![];
        let mut st = vec![];
        let mut rm = vec![];
        for _ in 0..30 {
            let spec = pod(vec![script("a", "sleep 1000")]);
            let t = Instant::now();
            node.runtime.prepare(&spec, &|_| {}).await.unwrap();
            p.push(t.elapsed().as_micros());
            let t = Instant::now();
            node.runtime.start(&spec.uid).await.unwrap();
            s.push(t.elapsed().as_micros());
            let t = Instant::now();
            node.runtime.stop(&spec.uid).await.unwrap();
            st.push(t.elapsed().as_micros());
            let t = Instant::now();
            node.runtime.remove(&spec.uid).await.unwrap();
            rm.push(t.elapsed().as_micros());
        }
        for (n, v) in [("prepare", &mut p), ("start", &mut s), ("stop", &mut st), ("remove", &mut rm)] {
            v.sort();
            eprintln!("SPEED {n} min {} p50 {} max {}", v[0], v[v.len() / 2], v[v.len() - 1]);
        }
        let specs: Vec<_> = (0..100).map(|_| pod(vec![script("web", "sleep 1000")])).collect();
        let t = Instant::now();
        futures::future::join_all(specs.iter().map(|spec| node.runtime.prepare(spec, &|_| {})))
            .await
            .into_iter()
            .for_each(|r| r.unwrap());
        eprintln!("SPEED 100 prepare {:?}", t.elapsed());
        let t2 = Instant::now();
        futures::future::join_all(specs.iter().map(|spec| node.runtime.start(&spec.uid)))
            .await
            .into_iter()
            .for_each(|r| r.unwrap());
        eprintln!("SPEED 100 start {:?} all {:?}", t2.elapsed(), t.elapsed());
        let t = Instant::now();
        futures::future::join_all(specs.iter().map(|spec| async {
            node.runtime.stop(&spec.uid).await.unwrap();
            node.runtime.remove(&spec.uid).await.unwrap()
        }))
        .await;
        eprintln!("SPEED 100 remove {:?}", t.elapsed());
        node.take_down().await;
    });
}
