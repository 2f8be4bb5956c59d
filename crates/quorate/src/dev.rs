//! `quorate dev`: a local cluster of this very binary.

use harness::dev_cluster::{self, DevPlan};
use harness::dev_directory;

use crate::Failure;
use crate::arguments::DevOptions;

/// Runs until it is told to stop.
pub(crate) fn run(options: DevOptions) -> Result<(), Failure> {
    let layout = dev_directory::lay_out(&options.data_dir, options.nodes, options.offset);
    let faults = options.enable_faults.then(|| "--enable-faults".to_owned());
    let faults = faults.into_iter().collect();
    let plan = DevPlan {
        layout: layout.map_err(Failure::Usage)?,
        server: crate::server(options.etcd_binary.as_deref(), faults)?,
        data_dir: options.data_dir,
        json: options.json,
        restart: options.restart,
        secure: options.secure,
    };
    crate::on_one_thread(dev_cluster::run(&plan))
}
