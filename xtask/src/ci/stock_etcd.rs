//! Stock etcd to compare with: Debian's packages, and the newest release where there is Go to
//! build it with.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Context;
use super::shell::{ensure_installed, installed, is_installed, output, packages, run_to_end};

/// How long a build may take, the downloads of a first one included.
const BUILD_TIMEOUT_SECONDS: &str = "600";

/// Programs of one release.
#[derive(Debug, Clone)]
pub(super) struct StockEtcd {
    /// `major.minor`.
    pub(super) release: &'static str,
    pub(super) etcd: PathBuf,
    pub(super) etcdctl: PathBuf,
    /// Restores snapshots; part of `etcdctl` before 3.6.
    pub(super) etcdutl: PathBuf,
}

/// Debian's release.
pub(super) fn debian(context: &Context) -> Result<StockEtcd, String> {
    ensure_installed("etcdctl", "etcd-client")?;
    let etcdctl = installed("etcdctl").ok_or("etcdctl has gone away")?;
    let etcd = debian_server(context)?;
    Ok(StockEtcd { release: "3.4", etcd, etcdutl: etcdctl.clone(), etcdctl })
}

/// The server's package would start a service when installed: it is only unpacked.
fn debian_server(context: &Context) -> Result<PathBuf, String> {
    if let Some(installed) = installed("etcd") {
        return Ok(installed);
    }
    let directory = context.target.join("ci").join("etcd-3.4");
    let binary = directory.join("usr/bin/etcd");
    if binary.exists() {
        return Ok(binary);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let mut download = Command::new("apt-get");
    download.args(["-q", "download", "etcd-server"]).current_dir(&directory);
    if output(&mut download).is_err() {
        packages(&["update"])?;
        output(&mut download)?;
    }
    for entry in std::fs::read_dir(&directory).map_err(failed)? {
        let package = entry.map_err(failed)?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&directory))?;
        }
    }
    Ok(binary)
}

/// The newest release, or nothing where there is no Go. Go caches what it has built.
pub(super) fn newest(context: &Context) -> Option<Result<StockEtcd, String>> {
    is_installed("go").then(|| {
        let directory = context.target.join("ci").join("etcd-3.6");
        let build = |name: &str, package: &str| {
            let binary = directory.join(name);
            build(context, &binary, package).map(|()| binary)
        };
        Ok(StockEtcd {
            release: "3.6",
            etcd: build("etcd", "go.etcd.io/etcd/server/v3")?,
            etcdctl: build("etcdctl", "go.etcd.io/etcd/etcdctl/v3")?,
            etcdutl: build("etcdutl", "go.etcd.io/etcd/etcdutl/v3")?,
        })
    })
}

/// Builds a package of the module in `xtask/clients/etcd`, which pins the release.
pub(super) fn build(context: &Context, binary: &Path, package: &str) -> Result<(), String> {
    let mut build = Command::new("timeout");
    build.args([BUILD_TIMEOUT_SECONDS, "go", "build", "-o"]).arg(binary).arg(package);
    run_to_end(build.current_dir(context.root.join("xtask/clients/etcd")))
}
