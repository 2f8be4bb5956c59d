//! Refusals on their way out: from the protocol's errors to gRPC statuses.

use store::StoreFailure;
use tonic::{Code, Status};
use wire::etcd::ProtocolError;

/// The status that a client sees.
pub(super) fn status(error: ProtocolError) -> Status {
    Status::new(Code::from_i32(error.code as i32), error.message)
}

/// A read failed below the protocol: the node's state cannot be read, so say it loudly.
pub(super) fn failed_read(failure: &StoreFailure) -> Status {
    tracing::error!(%failure, "a read of the local state failed");
    Status::data_loss(format!("quorate: the member cannot read its state: {failure}"))
}

/// The answer to a call that is not built.
pub(super) fn unimplemented(method: &str) -> Status {
    Status::unimplemented(format!("quorate: {method} is not built yet; see docs/etcd.md"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::etcd::errors::{COMPACTED, NO_LEADER};

    #[test]
    fn codes_and_texts_arrive_as_etcd_sends_them() {
        let compacted = status(COMPACTED);
        assert_eq!(compacted.code(), Code::OutOfRange);
        assert_eq!(compacted.message(), "etcdserver: mvcc: required revision has been compacted");
        assert_eq!(status(NO_LEADER).code(), Code::Unavailable);
    }
}
