//! Logins and policies: who is told a password, and when a registry is asked.

use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use images::{Logins, PullError, RegistryConfig, RegistryError, Wish};
use model::manifest::image::PullPolicy;

use crate::support::picture::{Layer, Packing, Picture};
use crate::support::rawtar::Member;
use crate::support::site::{Reply, Request, Shelf, Site};
use crate::support::{Lab, soon};

/// `user:canary`.
const HEADER: &str = "Basic dXNlcjpjYW5hcnk=";

fn picture(content: &str) -> Picture {
    Picture::of(vec![Layer::of(&[Member::file("etc/motd", content)], Packing::Gzip)])
}

fn wish(host: &str, password: &str) -> Wish {
    let text =
        format!(r#"{{ "auths": {{ "{host}": {{ "username": "user", "password": "{password}" }} }} }}"#);
    Wish { logins: Logins::parse(text.as_bytes(), "the test").unwrap(), ..Wish::default() }
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(String::as_str)
}

/// Gives only to those whose `Authorization` header is this; others are told what it asks for.
fn guarded(demand: String, header: &'static str) -> impl Fn(&Request, Reply) -> Reply + Send + Sync {
    move |request, reply| {
        if self::header(request, "authorization") == Some(header) {
            return reply;
        }
        Reply::status(401).header("www-authenticate", demand.clone())
    }
}

fn never_told(sites: &[&Site]) {
    for request in sites.iter().flat_map(|site| site.requests()) {
        assert_eq!(header(&request, "authorization"), None, "{}", request.path);
    }
}

#[tokio::test]
async fn registry_that_wants_a_login_gets_it_and_storage_behind_it_does_not() {
    let picture = picture("secret");
    let storage = Site::of(Shelf::with(&picture, "app", "1")).await;
    let elsewhere = storage.host.clone();
    let guard = guarded("Basic realm=\"here\"".to_owned(), HEADER);
    let site = Site::twisted(Shelf::with(&picture, "app", "1"), move |request, reply| {
        let reply = guard(request, reply);
        if reply.status == 200 && request.path.contains("/blobs/") {
            return Reply::status(307).header("location", format!("http://{elsewhere}{}", request.path));
        }
        reply
    })
    .await;
    let lab = Lab::new();
    let reference = site.reference("app:1");
    let fault = soon(lab.store.ensure(&reference)).await.unwrap_err();
    assert!(matches!(fault, PullError::Registry(RegistryError::Login { .. })), "{fault}");
    let fault = soon(lab.store.ensure_as(&reference, &wish(&site.host, "mistaken"))).await.unwrap_err();
    let PullError::Registry(RegistryError::LoginRefused { user, .. }) = &fault else { panic!("{fault}") };
    assert_eq!(user, "user");
    assert!(!format!("{fault} {fault:?}").contains("mistaken"));
    soon(lab.store.ensure_as(&reference, &wish(&site.host, "canary"))).await.unwrap();
    assert!(storage.count("/blobs/") > 0);
    never_told(&[&storage]);
}

#[tokio::test]
async fn login_goes_to_the_token_service_of_its_registry_and_to_no_other() {
    let picture = picture("secret");
    let answer = |request: &Request, _: Reply| {
        let known = header(request, "authorization") == Some(HEADER);
        Reply { body: br#"{"token":"let-me-in"}"#.to_vec(), ..Reply::status(if known { 200 } else { 401 }) }
    };
    let tokens = Site::twisted(Shelf::default(), answer).await;
    let port = tokens.host.rsplit(':').next().unwrap().to_owned();
    // The same host is trusted with it; another one only if the operator says so.
    for (host, listed, expected) in
        [("127.0.0.1", false, true), ("localhost", false, false), ("localhost", true, true)]
    {
        let demand = format!("Bearer realm=\"http://{host}:{port}/token\",service=\"s\"");
        let site =
            Site::twisted(Shelf::with(&picture, "app", "1"), guarded(demand, "Bearer let-me-in")).await;
        let listed = if listed { vec![host.to_owned()] } else { Vec::new() };
        let config =
            RegistryConfig { token_hosts: [(site.host.clone(), listed)].into(), ..RegistryConfig::default() };
        let lab = Lab::with(config);
        let pulled = soon(lab.store.ensure_as(&site.reference("app:1"), &wish(&site.host, "canary"))).await;
        match (pulled, expected) {
            (Ok(_), true) => {}
            (Err(PullError::Registry(RegistryError::Stranger { host: named, .. })), false) => {
                assert_eq!(named, host);
                assert_eq!(header(tokens.requests().last().unwrap(), "authorization"), None);
            }
            (other, _) => panic!("{host} {expected}: {other:?}"),
        }
        assert!(site.requests().iter().all(|asked| header(asked, "authorization") != Some(HEADER)));
    }
}

#[tokio::test]
async fn logins_of_the_node_are_read_anew_at_each_pull() {
    let picture = picture("secret");
    let guard = guarded("Basic realm=\"here\"".to_owned(), HEADER);
    let site = Site::twisted(Shelf::with(&picture, "app", "1"), guard).await;
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("config.json");
    let lab = Lab::with(RegistryConfig { logins: Some(file.clone()), ..RegistryConfig::default() });
    let reference = site.reference("app:1");
    let fault = soon(lab.store.ensure(&reference)).await.unwrap_err();
    assert!(matches!(fault, PullError::Logins { .. }), "{fault}");
    assert_eq!(site.requests().len(), 0, "no registry is asked in somebody else's name");
    write(&file, &site.host, "dXNlcjp3cm9uZw==");
    soon(lab.store.ensure(&reference)).await.unwrap_err();
    write(&file, &site.host, "dXNlcjpjYW5hcnk=");
    soon(lab.store.ensure(&reference)).await.unwrap();
}

fn write(file: &Path, host: &str, auth: &str) {
    std::fs::write(file, format!(r#"{{ "auths": {{ "{host}": {{ "auth": "{auth}" }} }} }}"#)).unwrap();
}

#[tokio::test]
async fn mirror_is_not_told_the_login_of_its_registry() {
    let picture = picture("public");
    let mirror = Site::of(Shelf::with(&picture, "app", "1")).await;
    let origin = Site::of(Shelf::default()).await;
    let mirrors = [(origin.host.clone(), vec![mirror.host.clone()])].into();
    let lab = Lab::with(RegistryConfig { mirrors, ..RegistryConfig::default() });
    soon(lab.store.ensure_as(&origin.reference("app:1"), &wish(&origin.host, "canary"))).await.unwrap();
    assert!(mirror.count("/manifests/") > 0);
    never_told(&[&mirror, &origin]);
}

#[tokio::test]
async fn policy_says_when_a_registry_is_asked() {
    let (old, new) = (picture("old"), picture("new"));
    let moved = Arc::new(AtomicBool::new(false));
    let seen = moved.clone();
    let mut shelf = Shelf::with(&old, "app", "0");
    shelf.put(&new, "app", "2");
    let (old_tag, new_tag) = ("/v2/app/manifests/0", "/v2/app/manifests/2");
    let site = Site::moving(shelf, move |path| match path {
        "/v2/app/manifests/1" if seen.load(Ordering::Relaxed) => new_tag.to_owned(),
        "/v2/app/manifests/1" => old_tag.to_owned(),
        other => other.to_owned(),
    })
    .await;
    let lab = Lab::new();
    let reference = site.reference("app:1");
    let as_policy = |policy| Wish { policy, ..Wish::default() };
    let ask = |policy| {
        let (store, reference) = (lab.store.clone(), reference.clone());
        async move { soon(store.ensure_as(&reference, &as_policy(policy))).await }
    };
    let fault = ask(PullPolicy::Never).await.unwrap_err();
    assert!(matches!(fault, PullError::NotHere { .. }), "{fault}");
    assert_eq!(site.requests().len(), 0);
    let first = ask(PullPolicy::IfNotPresent).await.unwrap();
    let asked = site.requests().len();
    assert_eq!(ask(PullPolicy::Never).await.unwrap().digest, first.digest);
    assert_eq!(ask(PullPolicy::IfNotPresent).await.unwrap().digest, first.digest);
    assert_eq!(site.requests().len(), asked);
    // Asked, and nothing is fetched that is here.
    assert_eq!(ask(PullPolicy::Always).await.unwrap().digest, first.digest);
    assert_eq!(site.requests().len(), asked + 1);
    // A container stands on the old image when the name moves.
    let dir = lab.scratch.path().join("pods/one");
    let rootfs = soon(lab.store.mount_rootfs(&first, &dir, None)).await.unwrap();
    moved.store(true, Ordering::Relaxed);
    let second = ask(PullPolicy::Always).await.unwrap();
    assert_ne!(second.digest, first.digest);
    let kept =
        lab.store.get(&reference.by_digest(first.digest)).expect("the old image has a name by its digest");
    soon(lab.store.remove(&reference)).await.unwrap();
    assert_eq!(std::fs::read_to_string(rootfs.join("etc/motd")).unwrap(), "old");
    let fault = soon(lab.store.remove(&kept.reference)).await.unwrap_err();
    assert!(fault.to_string().contains("in use") || format!("{fault:?}").contains("InUse"), "{fault}");
    soon(lab.store.unmount_rootfs(&dir)).await.unwrap();
    soon(lab.store.remove(&kept.reference)).await.unwrap();
}
