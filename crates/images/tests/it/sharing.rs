//! Many who want the same: one download, whoever comes and goes.

use std::sync::Arc;

use images::Image;
use tokio::sync::watch;

use crate::support::picture::{Layer, Packing, Picture};
use crate::support::rawtar::Member;
use crate::support::site::{Reply, Shelf, Site};
use crate::support::{Lab, name, names_in, soon, until};

/// A site whose answers for paths with `part` wait for the gate.
async fn gated(shelf: Shelf, part: String) -> (Site, watch::Sender<bool>) {
    let (open, gate) = watch::channel(false);
    let site = Site::twisted(shelf, move |request, reply| {
        let gate = request.path.contains(&part).then(|| gate.clone());
        Reply { gate, ..reply }
    })
    .await;
    (site, open)
}

fn ensure(lab: &Lab, reference: &str) -> tokio::task::JoinHandle<Result<Arc<Image>, images::PullError>> {
    let (store, reference) = (lab.store.clone(), name(reference));
    tokio::spawn(async move { store.ensure(&reference).await })
}

#[tokio::test]
async fn many_waiters_of_one_image_share_one_download() {
    let picture = Picture::simple("shared");
    let layer = picture.layers[0].digest().to_string();
    let (site, open) = gated(Shelf::with(&picture, "app", "1"), layer.clone()).await;
    let lab = Lab::new();
    let reference = format!("{}/app:1", site.host);
    let waiters: Vec<_> = (0..10).map(|_| ensure(&lab, &reference)).collect();
    until("the layer is asked for", || site.count(&layer) == 1).await;
    open.send(true).unwrap();
    for waiter in waiters {
        assert_eq!(soon(waiter).await.unwrap().unwrap().digest, picture.digest());
    }
    assert_eq!(site.requests().len(), 3, "{:?}", site.requests());
}

#[tokio::test]
async fn a_waiter_that_leaves_does_not_end_the_download_for_others() {
    let picture = Picture::simple("shared");
    let layer = picture.layers[0].digest().to_string();
    let (site, open) = gated(Shelf::with(&picture, "app", "1"), layer.clone()).await;
    let lab = Lab::new();
    let reference = format!("{}/app:1", site.host);
    let first = ensure(&lab, &reference);
    until("the layer is asked for", || site.count(&layer) == 1).await;
    let second = ensure(&lab, &reference);
    tokio::task::yield_now().await;
    first.abort();
    assert!(soon(first).await.unwrap_err().is_cancelled());
    open.send(true).unwrap();
    soon(second).await.unwrap().unwrap();
    assert_eq!(site.requests().len(), 3);
}

#[tokio::test]
async fn a_download_that_nobody_waits_for_ends_and_can_be_had_again() {
    let picture = Picture::simple("left");
    let layer = picture.layers[0].digest().to_string();
    let (site, open) = gated(Shelf::with(&picture, "app", "1"), layer.clone()).await;
    let lab = Lab::new();
    let reference = format!("{}/app:1", site.host);
    let only = ensure(&lab, &reference);
    until("the layer is asked for", || site.count(&layer) == 1).await;
    until("its files are there", || names_in(&lab.root().join("tmp")).len() == 1).await;
    only.abort();
    until("its files are gone", || names_in(&lab.root().join("tmp")).is_empty()).await;
    assert!(lab.store.progress(&name(&reference), &images::Wish::default()).is_none());
    open.send(true).unwrap();
    soon(ensure(&lab, &reference)).await.unwrap().unwrap();
}

#[tokio::test]
async fn images_with_a_common_layer_share_its_download_and_its_place() {
    let common = || Layer::of(&[Member::file("common", "c")], Packing::Gzip);
    let own = |content: &str| Layer::of(&[Member::file("own", content)], Packing::Gzip);
    let (one, two) = (Picture::of(vec![common(), own("1")]), Picture::of(vec![common(), own("2")]));
    let mut shelf = Shelf::with(&one, "one", "1");
    shelf.put(&two, "two", "1");
    let layer = common().digest().to_string();
    let (site, open) = gated(shelf, layer.clone()).await;
    let lab = Lab::new();
    let first = ensure(&lab, &format!("{}/one:1", site.host));
    until("the common layer is asked for", || site.count(&layer) == 1).await;
    let second = ensure(&lab, &format!("{}/two:1", site.host));
    let own_layer = two.layers[1].digest().to_string();
    until("the other image is under way", || site.count(&own_layer) == 1).await;
    // The image that started the download leaves; the other one keeps it.
    first.abort();
    open.send(true).unwrap();
    let image = soon(second).await.unwrap().unwrap();
    let again = soon(ensure(&lab, &format!("{}/one:1", site.host))).await.unwrap().unwrap();
    assert_eq!(image.layers[0], again.layers[0]);
    assert_eq!(site.count(&layer), 1);
}

#[tokio::test]
async fn an_image_whose_registry_hangs_delays_no_other() {
    let picture = Picture::simple("stuck");
    let (site, _never) = gated(Shelf::with(&picture, "stuck", "1"), "/stuck/".to_owned()).await;
    let other = Site::of(Shelf::with(&Picture::simple("other"), "other", "1")).await;
    let lab = Lab::new();
    let stuck = ensure(&lab, &format!("{}/stuck:1", site.host));
    until("the stuck image is under way", || site.count("/stuck/") == 1).await;
    soon(ensure(&lab, &format!("{}/other:1", other.host))).await.unwrap().unwrap();
    assert!(!stuck.is_finished());
    stuck.abort();
}
