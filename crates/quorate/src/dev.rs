//! `quorate dev`: a local cluster of this very binary.

use harness::dev_cluster::{self, DevPlan};
use harness::port_plan;

use crate::Failure;
use crate::arguments::DevOptions;

/// Runs until it is told to stop.
pub(crate) fn run(options: DevOptions) -> Result<(), Failure> {
    port_plan::plan(options.nodes, options.offset).map_err(Failure::Usage)?;
    let plan = DevPlan {
        server: crate::server(options.etcd_binary.as_deref(), Vec::new())?,
        nodes: options.nodes,
        offset: options.offset,
        data_dir: options.data_dir,
        json: options.json,
        restart: options.restart,
        secure: options.secure,
    };
    crate::on_one_thread(dev_cluster::run(&plan))
}
