//! Pulls from registries that behave, or fail for a while.

use std::sync::atomic::{AtomicUsize, Ordering};

use images::archive::host_architecture;
use images::{PullError, RegistryConfig, Wish};

use crate::support::picture::{Layer, Packing, Picture, index_of, noise};
use crate::support::rawtar::Member;
use crate::support::site::{Reply, Shelf, Site};
use crate::support::{Lab, names_in, soon, text};

/// Three layers, packed in each way.
fn three_layers() -> Picture {
    Picture::of(vec![
        Layer::of(&[Member::dir("bin"), Member::file("bin/hello", "lower").mode(0o755)], Packing::Plain),
        Layer::of(&[Member::file("bin/hello", "upper").mode(0o755)], Packing::Gzip),
        Layer::of(&[Member::file("etc/motd", "hi")], Packing::Zstd),
    ])
}

#[tokio::test]
async fn an_image_is_pulled_once_and_then_used_without_its_registry() {
    let picture = three_layers();
    let site = Site::of(Shelf::with(&picture, "team/app", "1")).await;
    let lab = Lab::new();
    let reference = site.reference("team/app:1");
    let image = soon(lab.store.ensure(&reference)).await.unwrap();
    assert_eq!(image.digest, picture.digest());
    assert_eq!(image.manifest, picture.digest());
    assert_eq!(image.config.cmd, ["/bin/hello"]);
    assert_eq!(image.config.env, [("PATH".to_owned(), "/bin".to_owned())]);
    assert_eq!(image.layers.len(), 3);
    assert_eq!(std::fs::read_to_string(image.layers[0].join("bin/hello")).unwrap(), "lower");
    assert_eq!(std::fs::read_to_string(image.layers[1].join("bin/hello")).unwrap(), "upper");
    assert_eq!(std::fs::read_to_string(image.layers[2].join("etc/motd")).unwrap(), "hi");
    assert!(names_in(&lab.root().join("tmp")).is_empty());
    let asked = site.requests().len();
    assert_eq!(asked, 5);
    drop(site);
    assert_eq!(soon(lab.store.ensure(&reference)).await.unwrap(), image);
}

#[tokio::test]
async fn an_index_leads_to_this_platform() {
    let (here, foreign) = (Picture::simple("here"), Picture::simple("foreign"));
    let mut shelf = Shelf::with(&here, "app", "here");
    shelf.put(&foreign, "app", "foreign");
    let inner =
        index_of(&[foreign.entry("windows", host_architecture()), here.entry("linux", host_architecture())]);
    shelf.index("app", "inner", &inner);
    let mut entry = crate::support::picture::descriptor(
        "application/vnd.oci.image.index.v1+json",
        &serde_json::to_vec(&inner).unwrap(),
    );
    entry["platform"] = serde_json::json!({ "os": "linux", "architecture": host_architecture() });
    shelf.index("app", "outer", &index_of(&[entry]));
    let none = index_of(&[foreign.entry("linux", "s390x"), foreign.entry("windows", "amd64")]);
    shelf.index("app", "none", &none);
    let site = Site::of(shelf).await;
    let lab = Lab::new();
    for tag in ["inner", "outer"] {
        let image = soon(lab.store.ensure(&site.reference(&format!("app:{tag}")))).await.unwrap();
        assert_eq!(image.manifest, here.digest());
        assert_ne!(image.digest, image.manifest);
        assert_eq!(std::fs::read_to_string(image.layers[0].join("file")).unwrap(), "here");
        let pinned = site.reference(&format!("app@{}", image.digest));
        assert_eq!(soon(lab.store.ensure(&pinned)).await.unwrap().manifest, here.digest());
    }
    let fault = soon(lab.store.ensure(&site.reference("app:none"))).await.unwrap_err();
    let expected =
        format!("no image for linux/{}; it offers linux/s390x, windows/amd64", host_architecture());
    assert!(text(&fault).contains(&expected), "{}", text(&fault));
    assert!(!fault.is_transient());
}

#[tokio::test]
async fn a_digest_pins_what_is_pulled() {
    let picture = Picture::simple("pinned");
    let site = Site::of(Shelf::with(&picture, "app", "1")).await;
    let lab = Lab::new();
    let pinned = site.reference(&format!("app:other@{}", picture.digest()));
    let image = soon(lab.store.ensure(&pinned)).await.unwrap();
    assert_eq!(image.reference, pinned);
    assert_eq!(image.digest, picture.digest());
    assert_eq!(site.count("/manifests/sha256:"), 1);
}

#[tokio::test]
async fn a_layer_that_breaks_off_is_continued_where_it_broke() {
    let big = Layer::of(&[Member::file("noise", noise(300_000))], Packing::Gzip);
    let picture = Picture::of(vec![big]);
    let blob = picture.layers[0].digest().to_string();
    for honours_ranges in [true, false] {
        let broken = AtomicUsize::new(0);
        let (part, whole) = (blob.clone(), picture.layers[0].carried.clone());
        let site = Site::twisted(Shelf::with(&picture, "app", "1"), move |request, reply| {
            if !request.path.contains(&part) {
                return reply;
            }
            let reply =
                if honours_ranges { reply } else { Reply { body: whole.clone(), ..Reply::status(200) } };
            match broken.fetch_add(1, Ordering::Relaxed) {
                0 => Reply { cut: Some(100_000), ..reply },
                1 => Reply::status(503),
                _ => reply,
            }
        })
        .await;
        let lab = Lab::new();
        let image = soon(lab.store.ensure(&site.reference("app:1"))).await.unwrap();
        assert_eq!(std::fs::read(image.layers[0].join("noise")).unwrap(), noise(300_000));
        let requests = site.requests();
        let last = requests.iter().rfind(|request| request.path.contains(&blob)).unwrap();
        assert!(last.headers.contains_key("range"));
    }
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again() {
    let asked = AtomicUsize::new(0);
    let site = Site::twisted(Shelf::with(&Picture::simple("x"), "app", "1"), move |_, reply| {
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::status(429).header("retry-after", "1"),
            1 => Reply::status(500),
            _ => reply,
        }
    })
    .await;
    let lab = Lab::new();
    let start = std::time::Instant::now();
    soon(lab.store.ensure(&site.reference("app:1"))).await.unwrap();
    assert!(start.elapsed() >= std::time::Duration::from_secs(1));
}

#[tokio::test]
async fn a_missing_image_and_a_missing_registry_are_told_apart() {
    let site = Site::of(Shelf::default()).await;
    let lab = Lab::new();
    let reference = site.reference("app:1");
    let fault = soon(lab.store.ensure(&reference)).await.unwrap_err();
    assert_eq!(text(&fault), format!("manifest for {reference} not found in registry {}", site.host));
    assert!(!fault.is_transient());
    let host = site.host.clone();
    drop(site);
    crate::support::until("the port is closed", || std::net::TcpStream::connect(&host).is_err()).await;
    let fault = soon(lab.store.ensure(&reference)).await.unwrap_err();
    assert_eq!(text(&fault), format!("registry {host} refused the connection"));
    assert!(fault.is_transient());
}

#[tokio::test]
async fn a_registry_that_is_not_on_this_machine_must_be_encrypted() {
    // Listens on loopback, but is named so that HTTPS is required.
    let site = Site::of(Shelf::with(&Picture::simple("x"), "app", "1")).await;
    let port = site.host.rsplit(':').next().unwrap();
    let lab = Lab::new();
    let reference = crate::support::name(&format!("0.0.0.0:{port}/app:1"));
    let fault = soon(lab.store.ensure(&reference)).await.unwrap_err();
    assert!(text(&fault).contains("no trusted connection"), "{}", text(&fault));
    assert!(!fault.is_transient());
    let config = RegistryConfig { insecure: vec![format!("0.0.0.0:{port}")], ..RegistryConfig::default() };
    soon(Lab::with(config).store.ensure(&reference)).await.unwrap();
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_next() {
    let picture = Picture::simple("mirrored");
    let origin = Site::of(Shelf::with(&picture, "app", "1")).await;
    let good = Site::of(Shelf::with(&picture, "app", "1")).await;
    let bad = Site::of(Shelf::default()).await;
    let config = |hosts: &[&Site]| {
        let hosts = hosts.iter().map(|site| site.host.clone()).collect();
        RegistryConfig { mirrors: [(origin.host.clone(), hosts)].into(), ..RegistryConfig::default() }
    };
    let reference = origin.reference("app:1");
    soon(Lab::with(config(&[&bad, &good])).store.ensure(&reference)).await.unwrap();
    assert_eq!((bad.count("/"), good.count("/"), origin.count("/")), (1, 3, 0));
    soon(Lab::with(config(&[&bad])).store.ensure(&reference)).await.unwrap();
    assert_eq!(origin.count("/"), 3);
    let missing = origin.reference("missing:1");
    let fault = soon(Lab::with(config(&[&bad])).store.ensure(&missing)).await.unwrap_err();
    assert!(matches!(fault, PullError::Mirrors { .. }));
    for host in [&bad.host, &origin.host] {
        assert!(text(&fault).contains(&format!("not found in registry {host}")), "{}", text(&fault));
    }
}

#[tokio::test]
async fn a_token_is_fetched_when_asked_for_and_stays_with_its_registry() {
    let picture = Picture::simple("x");
    let blob = picture.layers[0].digest().to_string();
    let storage = Site::of(Shelf::with(&picture, "app", "1")).await;
    let tokens = Site::twisted(Shelf::default(), |_, _| Reply {
        body: br#"{"token":"let-me-in","expires_in":300}"#.to_vec(),
        ..Reply::status(200)
    })
    .await;
    let (token_host, storage_host) = (tokens.host.clone(), storage.host.clone());
    let site = Site::twisted(Shelf::with(&picture, "app", "1"), move |request, reply| {
        if request.headers.get("authorization").map(String::as_str) != Some("Bearer let-me-in") {
            let challenge = format!(
                "Bearer realm=\"http://{token_host}/token?a=b\",service=\"here\",scope=\"repository:other:push\""
            );
            return Reply::status(401).header("www-authenticate", challenge);
        }
        if request.path.contains(&blob) {
            return Reply::status(307).header("location", format!("http://{storage_host}{}", request.path));
        }
        reply
    })
    .await;
    soon(Lab::new().store.ensure(&site.reference("app:1"))).await.unwrap();
    let asked: Vec<_> = tokens.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/token?a=b&service=here&scope=repository%3Aapp%3Apull"]);
    assert_eq!(storage.requests().len(), 1);
    assert!(!storage.requests()[0].headers.contains_key("authorization"));
    assert!(tokens.requests().iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn progress_is_seen_while_a_pull_lasts() {
    let picture = three_layers();
    let held = picture.layers[2].digest().to_string();
    let (open, gate) = tokio::sync::watch::channel(false);
    let site = Site::twisted(Shelf::with(&picture, "app", "1"), move |request, reply| {
        let gate = request.path.contains(&held).then(|| gate.clone());
        Reply { gate, ..reply }
    })
    .await;
    let lab = Lab::new();
    let reference = site.reference("app:1");
    assert!(lab.store.progress(&reference, &Wish::default()).is_none());
    let pull = tokio::spawn({
        let (store, reference) = (lab.store.clone(), reference.clone());
        async move { store.ensure(&reference).await }
    });
    crate::support::until("a pull is under way", || {
        lab.store.progress(&reference, &Wish::default()).is_some()
    })
    .await;
    let mut progress = lab.store.progress(&reference, &Wish::default()).unwrap();
    let seen = *soon(progress.wait_for(|progress| progress.layers_done == 2)).await.unwrap();
    let bytes: usize = picture.layers.iter().map(|layer| layer.carried.len()).sum();
    assert_eq!((seen.layers_total, seen.bytes_total), (3, bytes as u64));
    assert_eq!(seen.bytes_done, seen.bytes_total - picture.layers[2].carried.len() as u64);
    open.send(true).unwrap();
    soon(pull).await.unwrap().unwrap();
    assert!(lab.store.progress(&reference, &Wish::default()).is_none());
}
