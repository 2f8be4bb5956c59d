//! The fault endpoint of a node that was started with `--enable-faults`: what it pretends is set as
//! a whole, so that the empty setting ends every fault.

use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client_access::ClientAccess;

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What a node is to pretend; the default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PretendedFaults {
    /// Added to what the wall clock shows.
    pub(crate) wall_offset_ms: i64,
    /// How much faster the monotonic clock runs, in parts per million.
    pub(crate) monotonic_rate_ppm: i64,
    /// Added to every synced write of the log.
    pub(crate) disk_delay_ms: u64,
    /// Free disk space; nothing: what there is.
    pub(crate) free_bytes: Option<u64>,
    /// Ids of members, in hexadecimal, to whom nothing is sent.
    pub(crate) drop_to: Vec<String>,
    /// Ids of members from whom nothing is heard.
    pub(crate) drop_from: Vec<String>,
}

/// Sets what the node behind `address` pretends.
///
/// # Errors
/// One plain sentence.
pub(crate) async fn pretend(address: &str, faults: &PretendedFaults) -> Result<(), String> {
    let body = serde_json::to_string(faults).expect("numbers and strings are always JSON");
    let request = format!(
        "POST /faults HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    exchange(address, &request).await
}

/// Whether the node behind `address` has such an endpoint at all.
///
/// # Errors
/// One plain sentence.
pub(crate) async fn look(address: &str) -> Result<(), String> {
    exchange(address, &format!("GET /faults HTTP/1.0\r\nHost: {address}\r\n\r\n")).await
}

async fn exchange(address: &str, request: &str) -> Result<(), String> {
    let talking = async {
        let mut stream = ClientAccess::default().stream(address).await?;
        let failed = |error: std::io::Error| format!("{address}: {error}");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut reply = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut reply).await.map_err(failed)?;
        Ok::<Vec<u8>, String>(reply)
    };
    let reply = tokio::time::timeout(TIMEOUT, talking).await;
    let reply = reply.map_err(|_| format!("{address}: no answer within {TIMEOUT:?}"))??;
    judge(address, &String::from_utf8_lossy(&reply))
}

fn judge(address: &str, reply: &str) -> Result<(), String> {
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((reply, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some("404") => Err(format!(
            "{address} has no fault endpoint: its node was started without --enable-faults"
        )),
        _ => Err(format!("{address}: {}", if body.is_empty() { head } else { body }.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_the_endpoint_is_told_from_one_that_objects() {
        assert_eq!(judge("a:1", "HTTP/1.0 200 OK\r\n\r\n{}"), Ok(()));
        let missing = judge("a:1", "HTTP/1.0 404 Not Found\r\n\r\n").expect_err("not there");
        assert!(missing.contains("--enable-faults"), "{missing}");
        let objects = judge("a:1", "HTTP/1.0 400 Bad Request\r\n\r\nno such field\n");
        assert_eq!(objects, Err("a:1: no such field".to_owned()));
        assert!(judge("a:1", "").is_err());
    }
}
