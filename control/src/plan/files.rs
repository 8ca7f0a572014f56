//! The files of a planned cluster: what every node reads, and what its router needs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Plan, PlanArgs, Platform, router};

/// Writes all files into `directory`, which is made if it does not exist, and returns their paths.
///
/// # Errors
/// If one of them exists already, and then nothing is written; if one cannot be written.
pub(super) fn write(
    plan: &Plan,
    args: &PlanArgs,
    directory: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let files: Vec<(PathBuf, String)> =
        files(plan, args).into_iter().map(|(name, text)| (directory.join(name), text)).collect();
    if let Some((path, _)) = files.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
        bail!("{} exists: move it away, or give another directory", path.display());
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    for (path, text) in &files {
        File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// The files' names and contents.
fn files(plan: &Plan, args: &PlanArgs) -> Vec<(String, String)> {
    let (nodes, addresses) = plan.largest();
    let mut files = vec![("cluster.toml".to_owned(), cluster(plan, args.id))];
    for (slot, name) in nodes.iter().enumerate() {
        files.push((format!("node-{name}.toml"), node(slot, name, &args.interface)));
    }
    let platforms = args.router.map_or(Platform::ALL.to_vec(), |platform| vec![platform]);
    for platform in platforms {
        let text = router::configuration(platform, &plan.network, addresses.len());
        files.push((platform.file_name().to_owned(), text));
    }
    files
}

/// `cluster.toml`. Names hold no character that TOML would read as another.
fn cluster(plan: &Plan, id: u16) -> String {
    let (nodes, addresses) = plan.largest();
    let network = &plan.network;
    let generation = if plan.enlarged.is_some() { 2 } else { 1 };
    let mut text = String::from(
        "# What all nodes share. Copy it to every node, with the key that `vipdp keygen cluster.key`\n\
         # makes once. Raise the generation with each change.\n",
    );
    if network.example {
        text += "# The VIPs and next hops are examples: put your own in their place.\n";
    }
    let vips: Vec<_> = network.vips.iter().map(|vip| format!("\"{vip}\"")).collect();
    text += &format!(
        "\nid = {id}\ngeneration = {generation}\nmode = \"tiered\"\nvips = [{}]\n\
         key_file = \"cluster.key\"\n\n[tiered]\ntiers = {}\n",
        vips.join(", "),
        addresses.tiers()
    );
    if addresses.is_compact() {
        text += "compact = true\n";
    }
    for (key, is_ipv4) in [("next_hops4", true), ("next_hops6", false)] {
        let last = network.next_hop(is_ipv4, addresses.len() - 1);
        if let (Some(first), Some(last)) = (network.first(is_ipv4), last) {
            text += &format!("{key} = \"{first}\" # the first of {}, to {last}\n", addresses.len());
        }
    }
    text += "mac = \"virtual\"\nclaims = \"heartbeat\"\n";
    for (slot, name) in nodes.iter().enumerate() {
        text += &format!("\n[[member]]\nslot = {slot}\nname = \"{name}\"\n");
    }
    text
}

/// `node.toml` of one node.
fn node(slot: usize, name: &str, interface: &str) -> String {
    format!(
        "# What only {name} has: its node.toml.\n\nslot = {slot}\ninterface = \"{interface}\"\n\
         cluster = \"cluster.toml\"\n"
    )
}
