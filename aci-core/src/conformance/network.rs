//! The suite of [`NetworkDriver`].

use async_trait::async_trait;

use super::{fails, run, skip, works};
use crate::contract::{AttachRequest, NetworkDriver, NetworkEndpoint};
use crate::error::ErrorKind;
use crate::id::SandboxId;
use crate::model::{DnsConfiguration, IpAddress, IpAddressType, Port};

/// What the suite needs of an implementation.
#[async_trait]
pub trait NetworkHarness: Send + Sync {
    /// The driver, with at least eight free addresses.
    fn driver(&self) -> &dyn NetworkDriver;

    /// A fresh endpoint of a kind that the driver attaches to, for a sandbox.
    async fn endpoint(&self, sandbox: &SandboxId) -> NetworkEndpoint;

    /// Gives an endpoint up, after the sandbox was detached.
    async fn close(&self, sandbox: &SandboxId, endpoint: NetworkEndpoint);

    /// Another driver over the same state, as a program has it that starts after a crash of the
    /// first; `None` if nothing outlives the program.
    async fn reopen(&self) -> Option<Box<dyn NetworkDriver>>;
}

/// Runs all cases.
pub async fn all(harness: &dyn NetworkHarness) {
    let clean = async || {
        let driver = harness.driver();
        let mut left = Vec::new();
        for attachment in works(driver.list().await, "list") {
            works(driver.detach(&attachment.sandbox).await, "detach");
            left.push(attachment.sandbox.to_string());
        }
        left
    };
    clean().await;
    run("attach_and_detach", attach_and_detach(harness), clean).await;
    run(
        "attach_again_is_the_same",
        attach_again_is_the_same(harness),
        clean,
    )
    .await;
    run("addresses_are_apart", addresses_are_apart(harness), clean).await;
    run(
        "addresses_are_used_again",
        addresses_are_used_again(harness),
        clean,
    )
    .await;
    run("unknown_sandboxes", unknown_sandboxes(harness), clean).await;
    run("labels_are_unique", labels_are_unique(harness), clean).await;
    run(
        "dns_settings_are_kept",
        dns_settings_are_kept(harness),
        clean,
    )
    .await;
    run("bad_name_servers", bad_name_servers(harness), clean).await;
    run("readiness", readiness(harness), clean).await;
    run("found_after_a_crash", found_after_a_crash(harness), clean).await;
    run("dropped_attach", dropped_attach(harness), clean).await;
}

fn request(sandbox: &SandboxId, endpoint: &NetworkEndpoint) -> AttachRequest {
    AttachRequest {
        sandbox: sandbox.clone(),
        endpoint: endpoint.clone(),
        group: "conformance".into(),
        location: "local".to_owned(),
        hostname: "conformance".to_owned(),
        ip_address: None,
        subnets: Vec::new(),
        dns: None,
    }
}

fn address(label: Option<&str>) -> IpAddress {
    IpAddress {
        ports: vec![Port {
            protocol: None,
            port: 18_080,
            ..Port::default()
        }],
        type_: IpAddressType::Private,
        dns_name_label: label.map(str::to_owned),
        ..IpAddress::default()
    }
}

async fn fresh(harness: &dyn NetworkHarness) -> (SandboxId, NetworkEndpoint) {
    let sandbox = SandboxId::generate("net");
    let endpoint = harness.endpoint(&sandbox).await;
    (sandbox, endpoint)
}

async fn attached(driver: &dyn NetworkDriver) -> Vec<SandboxId> {
    let list = works(driver.list().await, "list");
    list.into_iter().map(|a| a.sandbox).collect()
}

/// An attachment is shown by `list` until it is detached; detaching twice is no error.
pub async fn attach_and_detach(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    let (sandbox, endpoint) = fresh(harness).await;
    let attachment = works(driver.attach(request(&sandbox, &endpoint)).await, "attach");
    assert_eq!(attachment.sandbox, sandbox);
    assert_eq!(attachment.ip, None, "no address was asked for");
    assert_eq!(attachment.fqdn, None, "no label was asked for");
    if driver.capability().addresses {
        assert!(!attachment.addresses.is_empty(), "no address");
    }
    let listed = works(driver.list().await, "list");
    assert_eq!(listed, [attachment], "what list shows is what attach said");
    works(driver.detach(&sandbox).await, "detach");
    assert_eq!(attached(driver).await, []);
    works(driver.detach(&sandbox).await, "detach again");
    harness.close(&sandbox, endpoint).await;
}

/// Repeating `attach` answers the same.
pub async fn attach_again_is_the_same(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    let (sandbox, endpoint) = fresh(harness).await;
    let first = works(driver.attach(request(&sandbox, &endpoint)).await, "attach");
    let second = works(driver.attach(request(&sandbox, &endpoint)).await, "again");
    assert_eq!(first, second);
    assert_eq!(attached(driver).await, std::slice::from_ref(&sandbox));
    works(driver.detach(&sandbox).await, "detach");
    harness.close(&sandbox, endpoint).await;
}

/// No two sandboxes have one address, also if they attach at once.
pub async fn addresses_are_apart(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    if !driver.capability().addresses {
        return skip("addresses_are_apart", "the driver gives no addresses");
    }
    let mut ends = Vec::new();
    for _ in 0..6 {
        ends.push(fresh(harness).await);
    }
    let attaching = ends.iter().map(async |(sandbox, endpoint)| {
        works(driver.attach(request(sandbox, endpoint)).await, "attach")
    });
    let mut seen = Vec::new();
    for attachment in futures_util::future::join_all(attaching).await {
        for net in attachment.addresses {
            assert!(
                !seen.contains(&net.addr()),
                "{} was given twice",
                net.addr()
            );
            seen.push(net.addr());
        }
    }
    for (sandbox, endpoint) in ends {
        works(driver.detach(&sandbox).await, "detach");
        harness.close(&sandbox, endpoint).await;
    }
}

/// Detaching gives the address back: more attachments one after the other than a small pool has.
pub async fn addresses_are_used_again(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    for _ in 0..12 {
        let (sandbox, endpoint) = fresh(harness).await;
        works(driver.attach(request(&sandbox, &endpoint)).await, "attach");
        works(driver.detach(&sandbox).await, "detach");
        harness.close(&sandbox, endpoint).await;
    }
}

/// Detaching and opening what is not attached is no error.
pub async fn unknown_sandboxes(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    let unknown = SandboxId::generate("unknown");
    works(driver.detach(&unknown).await, "detach");
    works(driver.set_ready(&unknown, true).await, "set_ready");
    assert_eq!(attached(driver).await, []);
}

/// A name label belongs to one group at a time; the refused one leaves nothing.
pub async fn labels_are_unique(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    if !driver.capability().names {
        return skip("labels_are_unique", "the driver serves no names");
    }
    let (a, a_end) = fresh(harness).await;
    let (b, b_end) = fresh(harness).await;
    let labelled = |sandbox: &SandboxId, endpoint: &NetworkEndpoint| AttachRequest {
        ip_address: Some(address(Some("conformance-label"))),
        ..request(sandbox, endpoint)
    };
    let first = works(driver.attach(labelled(&a, &a_end)).await, "attach");
    let fqdn = first.fqdn.expect("a full name for a label");
    assert!(fqdn.starts_with("conformance-label."), "{fqdn}");
    assert!(first.ip.is_some(), "an address was asked for");
    let error = fails(
        driver.attach(labelled(&b, &b_end)).await,
        ErrorKind::AlreadyExists,
        "a label that is taken",
    );
    assert_eq!(error.aci_code(), Some("DnsNameLabelNotAvailable"));
    assert_eq!(attached(driver).await, std::slice::from_ref(&a));
    works(driver.detach(&a).await, "detach");
    works(
        driver.attach(labelled(&b, &b_end)).await,
        "the label is free",
    );
    works(driver.detach(&b).await, "detach");
    harness.close(&a, a_end).await;
    harness.close(&b, b_end).await;
}

/// The document's name servers, search domains and options reach the containers.
pub async fn dns_settings_are_kept(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    let (sandbox, endpoint) = fresh(harness).await;
    let wish = AttachRequest {
        dns: Some(DnsConfiguration {
            name_servers: vec!["192.0.2.53".to_owned()],
            search_domains: Some("one.invalid two.invalid".to_owned()),
            options: Some("ndots:2".to_owned()),
            ..DnsConfiguration::default()
        }),
        ..request(&sandbox, &endpoint)
    };
    let dns = works(driver.attach(wish).await, "attach").dns;
    assert_eq!(
        dns.name_servers,
        ["192.0.2.53".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(dns.search, ["one.invalid", "two.invalid"]);
    assert_eq!(dns.options, ["ndots:2"]);
    works(driver.detach(&sandbox).await, "detach");
    harness.close(&sandbox, endpoint).await;
}

/// A name server that is no address is refused, and nothing is left.
pub async fn bad_name_servers(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    let (sandbox, endpoint) = fresh(harness).await;
    let wish = AttachRequest {
        dns: Some(DnsConfiguration {
            name_servers: vec!["dns.invalid".to_owned()],
            ..DnsConfiguration::default()
        }),
        ..request(&sandbox, &endpoint)
    };
    let error = fails(
        driver.attach(wish).await,
        ErrorKind::Invalid,
        "a bad server",
    );
    assert!(error.to_string().contains("dns.invalid"), "{error}");
    assert_eq!(attached(driver).await, []);
    harness.close(&sandbox, endpoint).await;
}

/// Opening and closing may be repeated.
pub async fn readiness(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    let (sandbox, endpoint) = fresh(harness).await;
    works(driver.attach(request(&sandbox, &endpoint)).await, "attach");
    for ready in [true, true, false, false, true] {
        works(driver.set_ready(&sandbox, ready).await, "set_ready");
    }
    works(driver.detach(&sandbox).await, "detach");
    harness.close(&sandbox, endpoint).await;
}

/// A later program finds the attachment, answers the same and can take it away.
pub async fn found_after_a_crash(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    let (sandbox, endpoint) = fresh(harness).await;
    let attachment = works(driver.attach(request(&sandbox, &endpoint)).await, "attach");
    match harness.reopen().await {
        None => skip("found_after_a_crash", "nothing outlives the program"),
        Some(second) => {
            let listed = works(second.list().await, "list of the second");
            assert_eq!(listed, std::slice::from_ref(&attachment));
            let again = works(second.attach(request(&sandbox, &endpoint)).await, "attach");
            assert_eq!(again, attachment);
            works(second.detach(&sandbox).await, "detach by the second");
            assert_eq!(attached(&*second).await, []);
        }
    }
    works(driver.detach(&sandbox).await, "detach");
    harness.close(&sandbox, endpoint).await;
}

/// A dropped `attach` is undone by `detach`, and the sandbox can be attached after it.
pub async fn dropped_attach(harness: &dyn NetworkHarness) {
    let driver = harness.driver();
    for cut in super::CUTS {
        let (sandbox, endpoint) = fresh(harness).await;
        let _ = super::cut_short(cut, driver.attach(request(&sandbox, &endpoint))).await;
        works(
            driver.attach(request(&sandbox, &endpoint)).await,
            "attach after it",
        );
        works(driver.detach(&sandbox).await, "detach");
        let (sandbox2, endpoint2) = fresh(harness).await;
        let _ = super::cut_short(cut, driver.attach(request(&sandbox2, &endpoint2))).await;
        works(driver.detach(&sandbox2).await, "detach after it");
        assert_eq!(attached(driver).await, []);
        harness.close(&sandbox, endpoint).await;
        harness.close(&sandbox2, endpoint2).await;
    }
}
