//! The store over its life: opened, crashed, listed, emptied.

use images::archive::{PackFile, PackSpec, pack};
use images::{ImageStore, RegistryConfig, RemoveError, StoreError};

use crate::support::picture::{Layer, Packing, Picture};
use crate::support::rawtar::Member;
use crate::support::site::{Shelf, Site};
use crate::support::{Lab, PATIENCE, Scratch, name, names_in, soon, text};

fn packed(reference: &str, content: &str) -> std::io::Cursor<Vec<u8>> {
    let file = PackFile { path: "bin/hello".to_owned(), mode: 0o755, bytes: content.as_bytes().to_vec() };
    let spec = PackSpec { reference: reference.to_owned(), files: vec![file], ..PackSpec::default() };
    let mut archive = Vec::new();
    pack(&spec, &mut archive).unwrap();
    std::io::Cursor::new(archive)
}

fn reopen(lab: Lab) -> (Scratch, ImageStore) {
    let Lab { scratch, store } = lab;
    drop(store);
    let store = ImageStore::open(&scratch.path().join("store"), RegistryConfig::default()).unwrap();
    (scratch, store)
}

#[tokio::test]
async fn a_second_process_does_not_get_the_store() {
    let lab = Lab::new();
    let second = ImageStore::open(&lab.root(), RegistryConfig::default());
    assert!(matches!(second, Err(StoreError::Locked { .. })));
    reopen(lab);
}

#[tokio::test]
async fn images_outlive_the_process() {
    let lab = Lab::new();
    let loaded = soon(lab.store.load(packed("hello:1", "hi"))).await.unwrap();
    let (_scratch, store) = reopen(lab);
    assert_eq!(store.get(&name("hello:1")), Some(loaded[0].clone()));
    assert_eq!(soon(store.ensure(&name("hello:1"))).await.unwrap(), loaded[0]);
}

#[tokio::test]
async fn what_a_crash_left_is_removed_at_open() {
    let lab = Lab::new();
    soon(lab.store.load(packed("hello:1", "hi"))).await.unwrap();
    let root = lab.root();
    // Nothing of what is written below may meet the store's own last writing.
    settled_list(&lab);
    let layers = names_in(&root.join("layers"));
    let blobs = names_in(&root.join("blobs/sha256"));
    for half in ["tmp/7/tree/a/b", "layers/0123", "tmp/.removing-3/1"] {
        std::fs::create_dir_all(root.join(half)).unwrap();
        std::fs::write(root.join(half).join("file"), "half").unwrap();
    }
    for half in ["tmp/archive", "blobs/sha256/4567", "blobs/sha256/89.new", "images/index.json.new"] {
        std::fs::write(root.join(half), "half").unwrap();
    }
    let (_scratch, store) = reopen(lab);
    assert!(names_in(&root.join("tmp")).is_empty());
    assert_eq!(names_in(&root.join("layers")), layers);
    assert_eq!(names_in(&root.join("blobs/sha256")), blobs);
    assert_eq!(store.list().len(), 1);
}

#[tokio::test]
async fn an_image_that_lost_a_layer_is_left_out_and_can_be_had_again() {
    let site = Site::of(Shelf::with(&Picture::simple("x"), "app", "1")).await;
    let lab = Lab::new();
    let reference = site.reference("app:1");
    let image = soon(lab.store.ensure(&reference)).await.unwrap();
    std::fs::remove_dir_all(&image.layers[0]).unwrap();
    let (_scratch, store) = reopen(lab);
    assert_eq!(store.get(&reference), None);
    let again = soon(store.ensure(&reference)).await.unwrap();
    assert_eq!(std::fs::read_to_string(again.layers[0].join("file")).unwrap(), "x");
}

/// The list on disk, as soon as it says that everything is there.
fn settled_list(lab: &Lab) -> serde_json::Value {
    let path = lab.root().join("images/index.json");
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let list: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let manifests = list["manifests"].as_object().unwrap();
        if manifests.values().all(|manifest| manifest.get("boot").is_none()) {
            return list;
        }
        assert!(std::time::Instant::now() < until, "never on disk: {list}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn an_image_that_was_not_on_disk_when_the_machine_went_down_is_pulled_again() {
    let site = Site::of(Shelf::with(&Picture::simple("x"), "app", "1")).await;
    let lab = Lab::new();
    let reference = site.reference("app:1");
    soon(lab.store.load(packed("hello:1", "hi"))).await.unwrap();
    soon(lab.store.ensure(&reference)).await.unwrap();
    let mut list = settled_list(&lab);
    let Lab { scratch, store } = lab;
    drop(store);
    let root = scratch.path().join("store");
    // As a power loss between pull and disk would have left it.
    let manifest = list["names"][reference.to_string()]["manifest"].as_str().unwrap().to_owned();
    list["manifests"][&manifest]["boot"] = "another boot".into();
    std::fs::write(root.join("images/index.json"), list.to_string()).unwrap();
    let store = ImageStore::open(&root, RegistryConfig::default()).unwrap();
    assert_eq!(store.get(&reference), None);
    assert!(store.get(&name("hello:1")).is_some());
    assert_eq!(names_in(&root.join("layers")).len(), 1);
    let again = soon(store.ensure(&reference)).await.unwrap();
    assert_eq!(std::fs::read_to_string(again.layers[0].join("file")).unwrap(), "x");
}

#[tokio::test]
async fn an_image_that_is_not_on_disk_yet_outlives_the_process() {
    let lab = Lab::new();
    soon(lab.store.load(packed("hello:1", "hi"))).await.unwrap();
    let mut list = settled_list(&lab);
    let Lab { scratch, store } = lab;
    drop(store);
    // As a crash of the process between pull and disk would have left it.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for manifest in list["manifests"].as_object_mut().unwrap().values_mut() {
        manifest["boot"] = boot.trim().into();
    }
    std::fs::write(scratch.path().join("store/images/index.json"), list.to_string()).unwrap();
    let store = ImageStore::open(&scratch.path().join("store"), RegistryConfig::default()).unwrap();
    assert!(store.get(&name("hello:1")).is_some());
    settled_list(&Lab { scratch, store });
}

#[tokio::test]
async fn a_damaged_list_is_an_error_and_nothing_is_removed() {
    let lab = Lab::new();
    soon(lab.store.load(packed("hello:1", "hi"))).await.unwrap();
    settled_list(&lab);
    let Lab { scratch, store } = lab;
    drop(store);
    let root = scratch.path().join("store");
    std::fs::write(root.join("images/index.json"), "{").unwrap();
    let fault = ImageStore::open(&root, RegistryConfig::default()).unwrap_err();
    assert!(text(&fault).contains("is damaged"), "{}", text(&fault));
    assert_eq!(names_in(&root.join("layers")).len(), 1);
}

#[tokio::test]
async fn directories_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    for directory in ["", "images", "blobs", "blobs/sha256", "layers", "leases", "tmp"] {
        let mode = std::fs::metadata(lab.root().join(directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{directory}");
    }
}

#[tokio::test]
async fn removing_an_image_keeps_what_others_need() {
    let common = || Layer::of(&[Member::file("common", "c")], Packing::Gzip);
    let own = |content: &str| Layer::of(&[Member::file("own", content)], Packing::Gzip);
    let (one, two) = (Picture::of(vec![common(), own("1")]), Picture::of(vec![common(), own("2")]));
    let mut shelf = Shelf::with(&one, "one", "1");
    shelf.put(&two, "two", "1");
    shelf.put(&two, "two", "same");
    let site = Site::of(shelf).await;
    let lab = Lab::new();
    for rest in ["one:1", "two:1", "two:same"] {
        soon(lab.store.ensure(&site.reference(rest))).await.unwrap();
    }
    assert_eq!(names_in(&lab.root().join("layers")).len(), 3);
    let names: Vec<_> = lab.store.list().into_iter().map(|summary| summary.reference).collect();
    assert_eq!(names, ["one:1", "two:1", "two:same"].map(|rest| site.reference(rest)));
    soon(lab.store.remove(&site.reference("two:1"))).await.unwrap();
    assert_eq!(names_in(&lab.root().join("layers")).len(), 3);
    soon(lab.store.remove(&site.reference("one:1"))).await.unwrap();
    let kept = lab.store.get(&site.reference("two:same")).unwrap();
    let mut expected: Vec<_> =
        kept.layers.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    expected.sort();
    assert_eq!(names_in(&lab.root().join("layers")), expected);
    soon(lab.store.remove(&site.reference("two:same"))).await.unwrap();
    for directory in ["layers", "blobs/sha256", "tmp"] {
        assert!(names_in(&lab.root().join(directory)).is_empty(), "{directory}");
    }
    let missing = soon(lab.store.remove(&site.reference("two:same"))).await;
    assert!(matches!(missing, Err(RemoveError::NotFound { .. })));
}

#[tokio::test]
async fn an_image_in_use_is_not_removed_even_by_a_new_process() {
    let lab = Lab::new();
    let image = soon(lab.store.load(packed("hello:1", "hi"))).await.unwrap().remove(0);
    let dir = lab.scratch.path().join("pods/one");
    soon(lab.store.mount_rootfs(&image, &dir, None)).await.unwrap();
    let fault = soon(lab.store.remove(&image.reference)).await.unwrap_err();
    assert_eq!(text(&fault), "image docker.io/library/hello:1 is in use by 1 containers");
    let (_scratch, store) = reopen(lab);
    assert!(matches!(soon(store.remove(&image.reference)).await, Err(RemoveError::InUse { users: 1, .. })));
    soon(store.unmount_rootfs(&dir)).await.unwrap();
    soon(store.remove(&image.reference)).await.unwrap();
    let gone = soon(store.mount_rootfs(&image, &dir, None)).await.unwrap_err();
    assert!(text(&gone).contains("was removed"), "{}", text(&gone));
}
