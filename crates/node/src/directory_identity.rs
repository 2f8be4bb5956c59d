//! The identity file of a data directory: whose it is, from the first start on.
//!
//! It is written once, after everything that can refuse a first start has passed, and read at
//! every later one: who this member is does not depend on settings any more. It also keeps where
//! the others were when it was written, because a member that holds no state yet must find them.
//!
//! Invariant: one rendering for one identity, checksum included. Bytes: docs/formats.md, "Data
//! directory".

use clocks::NodeId;
use std::fmt::Write;
use std::path::Path;

/// Version that is written; version 1, without the members known, is read.
const FORMAT: u32 = 2;
const TITLE: &str = "quorate data directory";

/// Whose a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryIdentity {
    /// The cluster.
    pub cluster: u64,
    /// The member.
    pub node: NodeId,
    /// Drawn when the directory was made.
    pub directory: u128,
    /// Members at that time, this one included; unknown (empty) in version 1.
    pub known: Vec<KnownMember>,
}

/// A member when the directory was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMember {
    /// Its id.
    pub id: NodeId,
    /// Where its peers reached it (`host:port`).
    pub address: String,
    /// Whether it is one of those that the cluster began with, this one among them.
    pub is_founder: bool,
}

impl DirectoryIdentity {
    /// Who votes before any change of membership: nobody at a member that joined.
    #[must_use]
    pub fn founders(&self) -> Vec<(NodeId, String)> {
        let founders = self.known.iter().filter(|member| member.is_founder);
        founders.map(|member| (member.id, member.address.clone())).collect()
    }

    /// Where this member's peers reached it when the directory was made.
    #[must_use]
    pub fn own_address(&self) -> Option<&str> {
        self.known.iter().find(|member| member.id == self.node).map(|own| own.address.as_str())
    }

    pub(crate) fn render(&self) -> String {
        self.render_as(FORMAT)
    }

    fn render_as(&self, format: u32) -> String {
        let mut text = format!(
            "{TITLE}\nformat {format}\ncluster {:016x}\nmember {:016x}\ndirectory {:032x}\n",
            self.cluster, self.node.0, self.directory
        );
        for member in &self.known {
            let kind = if member.is_founder { "founder" } else { "contact" };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{kind} {:016x} {}", member.id.0, member.address);
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        format!("{text}checksum {checksum:08x}\n")
    }

    /// Reads the file of the directory `path`.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<DirectoryIdentity, String> {
        let damaged = || {
            let place = path.join("identity");
            format!("{} is damaged; the member must be replaced", place.display())
        };
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(damaged());
        }
        // The format first: another version may have other fields and another checksum.
        let format = lines.next().and_then(|line| line.strip_prefix("format ")?.parse().ok());
        let format: u32 = format.ok_or_else(damaged)?;
        if !(1..=FORMAT).contains(&format) {
            return Err(format!(
                "the data directory {} has format {format}; this version knows only formats up \
                 to {FORMAT}: start the version that wrote it, or a newer one",
                path.display()
            ));
        }
        let identity = fields(lines).ok_or_else(damaged)?;
        // One rendering for one identity: this checks the checksum and everything else.
        if identity.render_as(format) == text { Ok(identity) } else { Err(damaged()) }
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Option<DirectoryIdentity> {
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    let mut identity =
        DirectoryIdentity { cluster: 0, node: NodeId(0), directory: 0, known: Vec::new() };
    for line in lines {
        let (field, value) = line.split_once(' ')?;
        match field {
            "cluster" => identity.cluster = hex(value)?,
            "member" => identity.node = NodeId(hex(value)?),
            "directory" => identity.directory = u128::from_str_radix(value, 16).ok()?,
            "founder" | "contact" => {
                let (id, address) = value.split_once(' ')?;
                let is_founder = field == "founder";
                let (id, address) = (NodeId(hex(id)?), address.to_owned());
                identity.known.push(KnownMember { id, address, is_founder });
            }
            // Checked with everything else by rendering anew.
            "checksum" => {}
            _ => return None,
        }
    }
    Some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> DirectoryIdentity {
        let member = |id, address: &str, is_founder| KnownMember {
            id: NodeId(id),
            address: address.to_owned(),
            is_founder,
        };
        DirectoryIdentity {
            cluster: 0xc1,
            node: NodeId(0xa1),
            directory: 0xd1,
            known: vec![member(0xa1, "10.0.0.1:2380", true), member(0xa2, "[::1]:2380", false)],
        }
    }

    #[test]
    fn golden_identity_of_format_2() {
        let golden = "quorate data directory\nformat 2\ncluster 00000000000000c1\n\
                      member 00000000000000a1\ndirectory 000000000000000000000000000000d1\n\
                      founder 00000000000000a1 10.0.0.1:2380\ncontact 00000000000000a2 [::1]:2380\n\
                      checksum 80ace12c\n";
        assert_eq!(identity().render(), golden);
        assert_eq!(DirectoryIdentity::parse(golden, Path::new("x")), Ok(identity()));
        assert_eq!(identity().founders(), [(NodeId(0xa1), "10.0.0.1:2380".to_owned())]);
        assert_eq!(identity().own_address(), Some("10.0.0.1:2380"));
    }

    #[test]
    fn golden_identity_of_format_1() {
        let identity = DirectoryIdentity { known: Vec::new(), ..identity() };
        let golden = "quorate data directory\nformat 1\ncluster 00000000000000c1\n\
                      member 00000000000000a1\ndirectory 000000000000000000000000000000d1\n\
                      checksum e0298529\n";
        assert_eq!(DirectoryIdentity::parse(golden, Path::new("x")), Ok(identity));
    }

    #[test]
    fn any_change_to_the_text_is_noticed() {
        let sound = identity().render().into_bytes();
        let refused = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            DirectoryIdentity::parse(&text, Path::new("x")).expect_err("it is not the same");
        };
        for at in 0..sound.len() {
            let mut bent = sound.clone();
            bent[at] ^= 1;
            refused(&bent);
            refused(&sound[..at]);
        }
    }
}
