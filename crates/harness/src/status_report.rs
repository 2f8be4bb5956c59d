//! Where every member of a cluster stands, asked over the protocol that clients use.
//!
//! A member that does not answer is a row like any other: an operator asks when something is
//! wrong. Not here: what a member knows of itself beyond the public surface.

use std::fmt::{self, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client_access::{ClientAccess, ConnectError};
use crate::first_contact::first_contact;
use crate::member_client::MemberClient;
use crate::proto::etcdserverpb::Member;

/// How long one member may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Roles of members that do not say what they are.
const UNREACHABLE: &str = "unreachable";
const REFUSED: &str = "refused";

/// Most bytes of metrics that are read from a member.
const METRICS_BYTES_MAX: u64 = 16 << 20;

/// One member.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MemberStatus {
    /// Its name, or its endpoint if it never told.
    pub name: String,
    /// Its id in hexadecimal, as stock clients print it.
    pub id: String,
    /// Where clients reach it (`host:port`).
    pub endpoint: String,
    /// `leader`, `follower` or `learner`; `unreachable`, or `refused` if it answers and says no.
    pub role: &'static str,
    /// Its term.
    pub term: u64,
    /// Id of the leader it follows, in hexadecimal; empty: none.
    pub leader: String,
    /// Last index that it applied.
    pub applied: u64,
    /// By how many indexes it is behind the most advanced member.
    pub lag: u64,
    /// Bytes that it takes on disk: state and log.
    pub disk_bytes: u64,
    /// Half of the log's syncs took at most this many microseconds; 0: unknown.
    pub sync_p50_microseconds: u64,
    /// 99% of them did; 0: unknown.
    pub sync_p99_microseconds: u64,
    /// Why it did not say where it stands, or what it complains about; empty: nothing.
    pub complaint: String,
}

/// Every member of one cluster.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// By name.
    pub members: Vec<MemberStatus>,
}

/// Asks the first endpoint that answers who the members are, then each of them.
///
/// An error is one plain sentence: nobody answered.
pub async fn collect(access: &ClientAccess, endpoints: &[String]) -> Result<StatusReport, String> {
    let (_, listed) = first_contact(access, endpoints, TIMEOUT).await?;
    let mut members = Vec::new();
    for member in listed {
        members.push(ask(access, member).await);
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let furthest = members.iter().map(|member| member.applied).max().unwrap_or(0);
    for member in &mut members {
        if member.answered() {
            member.lag = furthest - member.applied;
        }
    }
    Ok(StatusReport { members })
}

/// What is shown of a URL.
fn host_and_port(url: &str) -> String {
    let bare = url.split_once("://").map_or(url, |(_, bare)| bare);
    bare.trim_end_matches('/').to_owned()
}

async fn ask(access: &ClientAccess, listed: Member) -> MemberStatus {
    let url = listed.client_ur_ls.first().cloned().unwrap_or_default();
    let endpoint = host_and_port(&url);
    let mut member = MemberStatus {
        name: if listed.name.is_empty() { endpoint.clone() } else { listed.name },
        id: format!("{:x}", listed.id),
        role: UNREACHABLE,
        endpoint,
        ..MemberStatus::default()
    };
    if url.is_empty() {
        member.complaint = "it has not started yet".to_owned();
        return member;
    }
    if let Err(error) = ask_status(access, &url, &mut member).await {
        if let ConnectError::Refused(_) = error {
            member.role = REFUSED;
        }
        member.complaint = error.into();
        return member;
    }
    // A member without metrics is still a member.
    if let Ok(metrics) = http_get(access, &url, "/metrics").await {
        let sync = "etcd_disk_wal_fsync_duration_seconds";
        member.sync_p50_microseconds = percentile_microseconds(&metrics, sync, 0.5);
        member.sync_p99_microseconds = percentile_microseconds(&metrics, sync, 0.99);
    }
    member
}

async fn ask_status(
    access: &ClientAccess,
    url: &str,
    member: &mut MemberStatus,
) -> Result<(), ConnectError> {
    let client = MemberClient::over(access.channel(url, TIMEOUT).await?);
    let status = client.status().await?;
    let own = status.header.as_ref().map_or(0, |header| header.member_id);
    member.role = match () {
        () if status.is_learner => "learner",
        () if status.leader == own && own != 0 => "leader",
        () => "follower",
    };
    member.term = status.raft_term;
    if status.leader != 0 {
        member.leader = format!("{:x}", status.leader);
    }
    member.applied = status.raft_applied_index;
    member.disk_bytes = u64::try_from(status.db_size).unwrap_or(0);
    member.complaint = status.errors.join("; ");
    Ok(())
}

/// The body, if the answer is 200. HTTP/1.0, in which no answer comes in chunks.
async fn http_get(access: &ClientAccess, url: &str, path: &str) -> Result<String, String> {
    let address = host_and_port(url);
    let exchange = async {
        let mut stream = access.stream(url).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        let failed = |error: std::io::Error| format!("{address}{path}: {error}");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut reply = Vec::new();
        stream.take(METRICS_BYTES_MAX).read_to_end(&mut reply).await.map_err(failed)?;
        Ok::<Vec<u8>, String>(reply)
    };
    let reply = tokio::time::timeout(TIMEOUT, exchange).await;
    let reply = reply.map_err(|_| format!("{address}{path}: no answer within {TIMEOUT:?}"))??;
    let reply = String::from_utf8_lossy(&reply);
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    let first = head.lines().next().unwrap_or("");
    if first.split(' ').nth(1) != Some("200") {
        return Err(format!("{address}{path}: {first}"));
    }

    Ok(body.to_owned())
}

/// The upper bound of the bucket in which this share of a Prometheus histogram lies.
fn percentile_microseconds(metrics: &str, name: &str, share: f64) -> u64 {
    let prefix = format!("{name}_bucket{{le=\"");
    let buckets = metrics.lines().filter_map(|line| {
        let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"}")?;
        Some((bound.parse::<f64>().ok()?, count.trim().parse::<f64>().ok()?))
    });
    let buckets: Vec<(f64, f64)> = buckets.collect();
    let wanted = buckets.last().map_or(0.0, |(_, total)| total * share);
    let found = buckets.iter().find(|(_, count)| wanted > 0.0 && *count >= wanted);
    found.filter(|(bound, _)| bound.is_finite()).map_or(0, |(bound, _)| (bound * 1e6) as u64)
}

impl MemberStatus {
    fn answered(&self) -> bool {
        self.role != UNREACHABLE && self.role != REFUSED
    }
}

impl StatusReport {
    /// One plain sentence, if the report does not say where every member stands.
    pub fn shortcoming(&self) -> Option<String> {
        let silent = self.members.iter().filter(|member| !member.answered());
        let names: Vec<&str> = silent.map(|member| member.name.as_str()).collect();
        let (missing, all) = (names.len(), self.members.len());
        let names = names.join(", ");
        let sentence = format!("{missing} of {all} members do not say where they stand: {names}");
        (missing > 0).then_some(sentence)
    }

    /// One JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings are always JSON")
    }
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["NAME", "ID", "ENDPOINT", "ROLE", "TERM", "APPLIED", "LAG", "DISK", "SYNC P50", "P99"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.members.iter().map(row));
        let widths: Vec<usize> = (0..head.len())
            .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
            .collect();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        for member in self.members.iter().filter(|member| !member.complaint.is_empty()) {
            writeln!(f, "{}: {}", member.name, member.complaint)?;
        }
        Ok(())
    }
}

fn row(member: &MemberStatus) -> [String; 10] {
    let answered = member.answered();
    let known = |text: String| if answered { text } else { "-".to_owned() };
    [
        member.name.clone(),
        member.id.clone(),
        member.endpoint.clone(),
        member.role.to_owned(),
        known(member.term.to_string()),
        known(member.applied.to_string()),
        known(member.lag.to_string()),
        known(bytes(member.disk_bytes)),
        known(microseconds(member.sync_p50_microseconds)),
        known(microseconds(member.sync_p99_microseconds)),
    ]
}

fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let unit = units.iter().rposition(|unit| bytes >= scale(unit, &units)).unwrap_or(0);
    format!("{} {}", bytes / scale(units[unit], &units), units[unit])
}

fn scale(unit: &str, units: &[&str]) -> u64 {
    let power = units.iter().position(|known| *known == unit).unwrap_or(0);
    (0..power).fold(1, |scale, _| scale * 1024)
}

fn microseconds(microseconds: u64) -> String {
    match microseconds {
        0 => "-".to_owned(),
        1..10_000 => format!("{microseconds} us"),
        _ => format!("{} ms", microseconds / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE s histogram
s_bucket{le=\"0.001\"} 50
s_bucket{le=\"0.002\"} 98
s_bucket{le=\"0.004\"} 99
s_bucket{le=\"+Inf\"} 100
";

    #[test]
    fn percentiles_are_the_bounds_of_their_buckets() {
        assert_eq!(percentile_microseconds(METRICS, "s", 0.5), 1000);
        assert_eq!(percentile_microseconds(METRICS, "s", 0.99), 4000);
        assert_eq!(percentile_microseconds(METRICS, "s", 0.999), 0, "beyond the last bound");
        assert_eq!(percentile_microseconds("", "s", 0.5), 0);
    }

    #[test]
    fn the_table_shows_who_is_missing() {
        let reached = MemberStatus {
            name: "n1".to_owned(),
            role: "leader",
            applied: 12,
            disk_bytes: 3 << 20,
            sync_p50_microseconds: 131,
            ..MemberStatus::default()
        };
        let missing = MemberStatus {
            name: "n2".to_owned(),
            role: "unreachable",
            complaint: "cannot connect".to_owned(),
            ..MemberStatus::default()
        };
        let refused = MemberStatus {
            name: "n3".to_owned(),
            role: "refused",
            complaint: "user name is empty".to_owned(),
            ..MemberStatus::default()
        };
        let whole = StatusReport { members: vec![reached.clone()] };
        assert_eq!(whole.shortcoming(), None);
        let report = StatusReport { members: vec![reached, missing, refused] };
        let shortcoming = report.shortcoming().expect("two are missing");
        assert_eq!(shortcoming, "2 of 3 members do not say where they stand: n2, n3");
        let table = report.to_string();
        assert!(table.contains("3 MiB"), "{table}");
        assert!(table.contains("131 us"), "{table}");
        let complaints = "n2: cannot connect\nn3: user name is empty\n";
        assert!(table.ends_with(complaints), "{table}");
    }
}
