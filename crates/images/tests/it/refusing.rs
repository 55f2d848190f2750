//! Pulls of hostile or broken images: refused with the reason, and nothing of them stays.

use std::time::{Duration, Instant};

use images::{Digest, PullError, RegistryConfig};
use serde_json::json;

use crate::support::picture::{Layer, OCI_MANIFEST, Packing, Picture, descriptor, index_of, noise};
use crate::support::rawtar::{Member, tar_of};
use crate::support::site::{Reply, Request, Shelf, Site};
use crate::support::{Lab, names_in, soon, text, until};

/// Pulls `app:1` from a site and gives the reason why that failed.
async fn refusal_by(site: &Site, lab: &Lab) -> (PullError, String) {
    let fault = soon(lab.store.ensure(&site.reference("app:1"))).await.expect_err("it was accepted");
    until("nothing is left", || lab.leftovers().is_empty()).await;
    assert!(lab.store.list().is_empty());
    let text = text(&fault);
    (fault, text)
}

async fn refusal_of(picture: &Picture) -> String {
    let site = Site::of(Shelf::with(picture, "app", "1")).await;
    refusal_by(&site, &Lab::new()).await.1
}

async fn refusal_twisted(
    picture: &Picture,
    twist: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> (PullError, String) {
    let config = RegistryConfig { idle_timeout_seconds: 1, ..RegistryConfig::default() };
    let site = Site::twisted(Shelf::with(picture, "app", "1"), twist).await;
    refusal_by(&site, &Lab::with(config)).await
}

#[tokio::test]
async fn documents_that_contradict_themselves_are_refused() {
    let good = Picture::simple("x");
    let changed = |change: fn(&mut serde_json::Value)| {
        let mut manifest = good.manifest_value();
        change(&mut manifest);
        Picture { manifest: Some(manifest), ..good.clone() }
    };
    let mut two_configured = good.clone();
    two_configured.config["rootfs"]["diff_ids"] = json!([Digest::of(b"1"), Digest::of(b"2")]);
    let mut other_diff_id = good.clone();
    other_diff_id.config["rootfs"]["diff_ids"] = json!([Digest::of(b"1")]);
    let mut foreign = good.clone();
    foreign.config["architecture"] = json!("s390x");
    let cases = [
        (changed(|manifest| manifest["manifests"] = json!([])), "both manifests and layers"),
        (changed(|manifest| manifest["layers"] = json!([])), "no layers"),
        (
            changed(|manifest| manifest["layers"] = json!(vec![manifest["layers"][0].clone(); 129])),
            "129 layers",
        ),
        (changed(|manifest| manifest["layers"][0]["size"] = json!(-1)), "malformed"),
        (
            changed(|manifest| manifest["layers"][0]["size"] = json!(1_u64 << 63)),
            "claims 9223372036854775808 bytes",
        ),
        (
            changed(|manifest| manifest["layers"][0]["mediaType"] = json!("text/plain")),
            "layer type \"text/plain\"",
        ),
        (
            changed(|manifest| manifest["config"]["size"] = json!(100 << 20)),
            "configuration has 104857600 bytes",
        ),
        (
            changed(|manifest| manifest["mediaType"] = json!("application/vnd.oci.image.index.v1+json")),
            "by its content",
        ),
        (changed(|manifest| manifest["pad"] = json!("x".repeat(5 << 20))), "sent more than 4194304 bytes"),
        (two_configured, "lists 1 layers, but the configuration 2"),
        (other_diff_id, "the configuration expects"),
        (foreign, "it offers linux/s390x"),
    ];
    for (picture, reason) in cases {
        let text = refusal_of(&picture).await;
        assert!(text.contains(reason), "{reason}: {text}");
    }
}

#[tokio::test]
async fn chains_of_indexes_end() {
    let mut shelf = Shelf::default();
    let mut index = index_of(&[]);
    for _ in 0..10 {
        let bytes = serde_json::to_vec(&index).unwrap();
        shelf.document("app", "1", "application/vnd.oci.image.index.v1+json", bytes.clone());
        index = index_of(&[descriptor("application/vnd.oci.image.index.v1+json", &bytes)]);
    }
    let site = Site::of(shelf).await;
    let (_, text) = refusal_by(&site, &Lab::new()).await;
    assert!(text.contains("more than 3 documents"), "{text}");
    assert_eq!(site.count("/manifests/"), 4);
}

#[tokio::test]
async fn bytes_that_do_not_match_their_digest_are_refused() {
    let picture = Picture::of(vec![Layer::of(&[Member::file("noise", noise(50_000))], Packing::Gzip)]);
    let layer = picture.layers[0].digest().to_string();
    let config = Digest::of(&picture.config_bytes()).to_string();
    for part in [layer, config] {
        let flip = {
            let part = part.clone();
            move |request: &Request, mut reply: Reply| {
                if request.path.contains(&part) {
                    let middle = reply.body.len() / 2;
                    reply.body[middle] ^= 1;
                }
                reply
            }
        };
        let (fault, text) = refusal_twisted(&picture, flip).await;
        assert!(text.contains("digest mismatch"), "{text}");
        assert!(text.contains(&part), "{text}");
        assert!(!fault.is_transient());
    }
    let (_, text) = refusal_twisted(&picture, |request, reply| match request.path.contains("/manifests/") {
        true => reply.header("docker-content-digest", Digest::of(b"else").to_string()),
        false => reply,
    })
    .await;
    assert!(text.contains("digest mismatch: manifest"), "{text}");
}

#[tokio::test]
async fn a_manifest_other_than_the_pinned_one_is_refused() {
    let picture = Picture::simple("x");
    let other = Digest::of(b"other");
    let mut shelf = Shelf::default();
    shelf.page(format!("/v2/app/manifests/{other}"), OCI_MANIFEST, picture.manifest_bytes());
    let site = Site::of(shelf).await;
    let reference = site.reference(&format!("app@{other}"));
    let fault = soon(Lab::new().store.ensure(&reference)).await.unwrap_err();
    assert!(text(&fault).contains("digest mismatch"), "{}", text(&fault));
}

#[tokio::test]
async fn sizes_other_than_declared_are_refused() {
    let picture = Picture::of(vec![Layer::of(&[Member::file("noise", noise(50_000))], Packing::Gzip)]);
    for declared in [0, 10, picture.layers[0].carried.len() + 1] {
        let mut manifest = picture.manifest_value();
        manifest["layers"][0]["size"] = json!(declared);
        let lying = Picture { manifest: Some(manifest), ..picture.clone() };
        let text = refusal_of(&lying).await;
        assert!(text.contains("size mismatch"), "{declared}: {text}");
    }
    // Without a length in front, only the bytes themselves tell.
    let layer = picture.layers[0].digest().to_string();
    let (_, text) = refusal_twisted(&picture, move |request, mut reply| {
        if request.path.contains(&layer) && !request.headers.contains_key("range") {
            reply.body.extend([0; 100]);
            reply.headers.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
            reply.headers.push(("content-length".to_owned(), String::new()));
            let size = format!("{:x}\r\n", reply.body.len());
            reply.body = [size.as_bytes(), &reply.body, b"\r\n0\r\n\r\n"].concat();
        }
        reply
    })
    .await;
    assert!(text.contains("more than the declared") || text.contains("broke the connection"), "{text}");
}

#[tokio::test]
async fn a_connection_that_always_breaks_ends_after_a_few_tries() {
    let picture = Picture::of(vec![Layer::of(&[Member::file("noise", noise(50_000))], Packing::Gzip)]);
    let layer = picture.layers[0].digest().to_string();
    let (fault, text) =
        refusal_twisted(&picture, move |request, reply| match request.path.contains(&layer) {
            true => Reply { cut: Some(10), ..reply },
            false => reply,
        })
        .await;
    assert!(text.contains("broke the connection"), "{text}");
    assert!(fault.is_transient());
}

#[tokio::test]
async fn a_registry_that_falls_silent_ends_the_pull_in_bounded_time() {
    let silence = |part: &'static str, sent| async move {
        let picture = Picture::of(vec![Layer::of(&[Member::file("noise", noise(50_000))], Packing::Gzip)]);
        let start = Instant::now();
        let (fault, text) =
            refusal_twisted(&picture, move |request, reply| match request.path.contains(part) {
                true => Reply { hang: Some(sent), ..reply },
                false => reply,
            })
            .await;
        assert!(text.contains("did not answer in time"), "{text}");
        assert!(fault.is_transient());
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    };
    tokio::join!(silence("/blobs/", 10), silence("/manifests/", 0));
}

#[tokio::test]
async fn a_pull_has_a_deadline_however_slowly_bytes_trickle() {
    let picture = Picture::simple("x");
    let (_never, gate) = tokio::sync::watch::channel(false);
    let site = Site::twisted(Shelf::with(&picture, "app", "1"), move |_, reply| Reply {
        gate: Some(gate.clone()),
        ..reply
    })
    .await;
    let config = RegistryConfig { pull_deadline_seconds: 1, ..RegistryConfig::default() };
    let (fault, text) = refusal_by(&site, &Lab::with(config)).await;
    assert!(text.contains("was not complete after 1 s"), "{text}");
    assert!(fault.is_transient());
}

#[tokio::test]
async fn redirects_that_loop_or_lead_astray_are_not_followed() {
    let picture = Picture::simple("x");
    let cases = [
        ("/v2/app/manifests/1", "more than 5 times"),
        ("file:///etc/passwd", "neither http nor https"),
        ("http://169.254.169.254/latest", "an address within one link"),
        ("ftp://127.0.0.1/x", "neither http nor https"),
        ("http://[bad", "to no address"),
    ];
    for (location, reason) in cases {
        let (fault, text) =
            refusal_twisted(&picture, move |_, _| Reply::status(302).header("location", location)).await;
        assert!(text.contains(reason), "{location}: {text}");
        assert!(!fault.is_transient());
    }
}

#[tokio::test]
async fn token_services_elsewhere_are_not_asked() {
    let picture = Picture::simple("x");
    let cases = [
        ("Bearer realm=\"http://169.254.169.254/token\"", "sends for a token to"),
        ("Bearer realm=\"file:///etc/passwd\"", "sends for a token to"),
        ("Basic realm=\"x\"", "wants a login"),
        ("Bearer realm=\"unclosed", "wants a login"),
    ];
    for (challenge, reason) in cases {
        let (_, text) =
            refusal_twisted(&picture, move |_, _| Reply::status(401).header("www-authenticate", challenge))
                .await;
        assert!(text.contains(reason), "{challenge}: {text}");
    }
}

#[tokio::test]
async fn a_hostile_layer_leaves_nothing_behind() {
    let bomb = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 20 << 20), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    let layer_of_zeros = Layer {
        carried: bomb,
        diff_id: Digest::of(b""),
        media_type: "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let outside = Layer::of(&[Member::file("ok", "x"), Member::file("../../x", "x")], Packing::Gzip);
    let mut truncated = tar_of(&[Member::file("x", noise(5000))]);
    truncated.truncate(3000);
    let good = || Layer::of(&[Member::file("good", "x")], Packing::Gzip);
    let cases = [
        (layer_of_zeros, "the configuration expects"),
        (outside, "leaves its directory by '..'"),
        (Layer::of_tar(&truncated, Packing::Gzip), "archive refused"),
    ];
    for (layer, reason) in cases {
        let site = Site::of(Shelf::with(&Picture::of(vec![good(), layer]), "app", "1")).await;
        let lab = Lab::new();
        let (fault, text) = refusal_by(&site, &lab).await;
        assert!(text.contains(reason), "{reason}: {text}");
        assert!(!fault.is_transient());
        assert!(
            names_in(&lab.root().join("layers")).len() <= 1,
            "only the good layer may wait for another try"
        );
    }
}
