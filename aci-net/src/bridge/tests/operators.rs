//! What operators see and tidy, and what other people do to our rules.

use std::process::Command;

use aci_core::contract::NetworkDriver;

use super::lab::{Lab, connect, make_bridge, root, serve, within};

fn nft(lab: &Lab, arguments: &[&str]) -> String {
    let output = within(&lab.host, || {
        Command::new("nft")
            .args(arguments)
            .output()
            .expect("nft (Debian: nftables)")
    });
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn operators_see_what_there_is_and_tidy_it() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let before = lab.everything();
    let network = lab.open().await;
    let (a, b, c) = (lab.group("a"), lab.group("b"), lab.group("c"));
    for group in [&a, &b, &c] {
        network.attach(group.request()).await.unwrap();
    }
    network.set_ready(&b.id, false).await.unwrap();
    let report = network.report().await.unwrap();
    assert_eq!(report.networks[0].name, "default");
    let ready: Vec<bool> = report.attachments.iter().map(|a| a.ready).collect();
    assert_eq!(ready, [true, false, true]);
    assert!(report.stray_links.is_empty() && report.stray_routes.is_empty());
    // A link that bears our marks and belongs to nothing, and one of other people.
    let group = lab.link_group(&report.attachments[0].link);
    within(&lab.host, || {
        make_bridge("aciffffffffffff", group);
        make_bridge("docker0", 0);
    });
    let report = network.report().await.unwrap();
    assert_eq!(report.stray_links, ["aciffffffffffff"]);
    let collected = network.collect(std::slice::from_ref(&b.id)).await.unwrap();
    assert_eq!(collected.detached, [a.id.clone(), c.id.clone()]);
    assert_eq!(collected.strays, 1);
    assert_eq!(network.list().await.unwrap().len(), 1);
    assert_eq!(lab.own_links(), 2);
    assert!(
        lab.everything()
            .iter()
            .any(|l| l.starts_with("link docker0"))
    );
    let collected = network.collect(&[]).await.unwrap();
    assert_eq!(collected.detached, std::slice::from_ref(&b.id));
    let mut left = lab.everything();
    left.retain(|l| !l.starts_with("link docker0"));
    assert_eq!(left, before);
    let report = network.report().await.unwrap();
    assert_eq!((report.attachments.len(), report.resting_addresses), (0, 3));
}

#[tokio::test]
async fn rules_that_somebody_flushed_are_made_again_and_others_stay() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let network = lab.open().await;
    let (a, b) = (lab.group("a"), lab.group("b"));
    let at_a = network.attach(a.request()).await.unwrap();
    serve(&a.namespace, 80, "a");
    nft(&lab, &["flush", "ruleset"]);
    nft(&lab, &["add", "table", "inet", "theirs"]);
    network.attach(b.request()).await.unwrap();
    let rules = nft(&lab, &["list", "ruleset"]);
    assert!(rules.contains("table inet theirs") && rules.contains("table inet aci-net-"));
    assert!(
        rules.contains("10.88.0.4 . ") && rules.contains("10.88.0.5 . "),
        "{rules}"
    );
    network.set_ready(&a.id, false).await.unwrap();
    assert!(connect(&b.namespace, at_a.addresses[0].addr(), 80).is_err());
    nft(&lab, &["flush", "ruleset"]);
    nft(&lab, &["add", "table", "inet", "theirs"]);
    network.detach(&a.id).await.unwrap();
    network.detach(&b.id).await.unwrap();
    assert_eq!(nft(&lab, &["list", "tables"]), "table inet theirs\n");
}
