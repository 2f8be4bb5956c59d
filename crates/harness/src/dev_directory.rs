//! What a directory of `quorate dev` holds: a directory per member, `n1`, `n2`, …, each with the
//! addresses that it was made with, so that it comes back where the others expect it.
//!
//! Invariants: what is there decides; what is asked for counts for a new cluster alone. Before any
//! member of a new cluster first runs, those that it is founded of have addresses, and no other
//! directory has: whoever has some and never ran is a founder. The file `addresses` is described in
//! docs/formats.md, "Data directory". Not here: running the members.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::port_plan::{self, MemberAddresses};

/// Members of a new cluster, unless something else is said.
const NODES: usize = 3;

/// The file in a member's directory.
const ADDRESSES: &str = "addresses";

/// Most bytes of it that are read.
const ADDRESSES_BYTES_MAX: u64 = 4096;

/// A member, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    number: usize,
    standing: Standing,
    recorded: Option<Place>,
    /// The member's id, as its identity has it.
    id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It never ran.
    Unused,
    Member,
    Removed,
}

/// A member's name and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where it listens.
    pub addresses: MemberAddresses,
}

/// The members to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Each with the name of its directory; not empty.
    pub members: Vec<(String, Place)>,
    /// Directories of members that were removed from the cluster.
    pub removed: Vec<String>,
    /// A further member, if there is room for its ports.
    pub next: Option<Place>,
    /// Directories of a start that was cut off before anybody ran, and that are none of this one.
    pub abandoned: Vec<String>,
}

/// Whether the member with this data directory has run.
pub(crate) fn has_run(data_dir: &Path) -> bool {
    // Stock etcd keeps everything in `member`.
    data_dir.join("identity").exists() || data_dir.join("member").exists()
}

impl Layout {
    /// Notes where the members listen, before the first of them runs: a start that is cut off knows
    /// them again, and nobody else.
    ///
    /// # Errors
    /// One plain sentence.
    pub fn record(&self, directory: &Path) -> Result<(), String> {
        self.abandoned.iter().try_for_each(|name| forget(&directory.join(name)))?;
        self.members.iter().try_for_each(|(name, place)| record(&directory.join(name), place))
    }
}

/// Looks what is in `directory`, and what of it shall run. `nodes` and `offset` are what was asked
/// for, if anything.
///
/// # Errors
/// One plain sentence: what was asked for contradicts what is there, or cannot be.
pub fn lay_out(
    directory: &Path,
    nodes: Option<usize>,
    offset: Option<u16>,
) -> Result<Layout, String> {
    arrange(&look(directory)?, &directory.display().to_string(), nodes, offset)
}

fn look(directory: &Path) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    let unreadable =
        |error: std::io::Error| format!("cannot read {}: {error}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(unreadable(error)),
    };
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(number) else { continue };
        let path = entry.path();
        let standing = match (has_run(&path), path.join("removed").exists()) {
            (_, true) => Standing::Removed,
            (true, false) => Standing::Member,
            (false, false) => Standing::Unused,
        };
        found.push(Found { number, standing, recorded: recorded(&path)?, id: id(&path) });
    }
    found.sort_by_key(|member| member.number);
    Ok(found)
}

/// Of `n1`, `n2`, …
fn number(name: &str) -> Option<usize> {
    let number = name.strip_prefix('n')?.parse().ok()?;
    (number > 0 && name == format!("n{number}")).then_some(number)
}

fn arrange(
    found: &[Found],
    directory: &str,
    nodes: Option<usize>,
    offset: Option<u16>,
) -> Result<Layout, String> {
    if found.iter().all(|member| member.standing == Standing::Unused) {
        let places = port_plan::plan(nodes.unwrap_or(NODES), offset.unwrap_or(0))?;
        let members = places.into_iter().enumerate().map(|(i, addresses)| {
            let name = format!("n{}", i + 1);
            (name.clone(), Place { name, addresses })
        });
        let members: Vec<(String, Place)> = members.collect();
        let next = planned(members.len() + 1, offset.unwrap_or(0)).ok();
        let abandoned = found.iter().filter(|found| {
            found.recorded.is_some() && !(1..=members.len()).contains(&found.number)
        });
        let abandoned = abandoned.map(|found| format!("n{}", found.number)).collect();
        return Ok(Layout { members, removed: Vec::new(), next, abandoned });
    }
    let removed = found.iter().filter(|member| member.standing == Standing::Removed);
    let removed = removed.map(|member| format!("n{}", member.number)).collect();
    // One that never ran is the cluster's if it was laid out with it.
    let members = found.iter().filter(|member| match member.standing {
        Standing::Unused => member.recorded.is_some(),
        Standing::Member => true,
        Standing::Removed => false,
    });
    let members: Vec<&Found> = members.collect();
    let offset = offset_of(&members, directory, offset)?;
    let count = members.len();
    if count == 0 {
        return Err(format!(
            "every node in {directory} was removed from its cluster: say another --data-dir"
        ));
    }
    if nodes.is_some_and(|nodes| nodes != count) {
        return Err(format!(
            "{directory} holds a cluster of {count} nodes: leave --nodes out, or say another \
             --data-dir"
        ));
    }
    let place =
        |member: &Found| member.recorded.clone().map_or_else(|| planned(member.number, offset), Ok);
    let places = members.iter().map(|member| place(member)).collect::<Result<Vec<_>, _>>()?;
    refuse_shared_ports(&members, &places, directory)?;
    let names = members.iter().map(|member| format!("n{}", member.number));
    let members = names.zip(places).collect();
    let next = planned(found.last().map_or(0, |member| member.number) + 1, offset).ok();
    Ok(Layout { members, removed, next, abandoned: Vec::new() })
}

fn planned(number: usize, offset: u16) -> Result<Place, String> {
    let addresses = port_plan::of(number, offset)?;
    Ok(Place { name: format!("n{number}"), addresses })
}

/// By how much the ports are moved; who joined at ports of its own does not count.
fn offset_of(members: &[&Found], directory: &str, wanted: Option<u16>) -> Result<u16, String> {
    let offsets = members.iter().filter_map(|member| {
        port_plan::offset_of(member.number, &member.recorded.as_ref()?.addresses)
    });
    let offsets: BTreeSet<u16> = offsets.collect();
    match (wanted, offsets.first()) {
        (Some(wanted), Some(offset)) if !offsets.contains(&wanted) => Err(format!(
            "{directory} holds a cluster with --offset {offset}: leave --offset out, or say \
             another --data-dir"
        )),
        (Some(wanted), _) => Ok(wanted),
        (None, first) => Ok(first.copied().unwrap_or(0)),
    }
}

fn refuse_shared_ports(
    members: &[&Found],
    places: &[Place],
    directory: &str,
) -> Result<(), String> {
    let described = |member: &Found| match &member.id {
        Some(id) => format!("n{} (member {id})", member.number),
        None => format!("n{}", member.number),
    };
    let mut taken: Vec<(&str, &Found)> = Vec::new();
    for (member, Place { addresses, .. }) in members.iter().zip(places) {
        for address in [&addresses.etcd, &addresses.peer, &addresses.admin] {
            if let Some((_, other)) = taken.iter().find(|(known, _)| known == address) {
                return Err(format!(
                    "{} and {} in {directory} both listen on {address}: move the directory of \
                     the one that was replaced to another place",
                    described(other),
                    described(member)
                ));
            }
            taken.push((address, member));
        }
    }
    Ok(())
}

/// Notes, durably, where the member with this data directory listens, making the directory if need
/// be.
///
/// # Errors
/// One plain sentence.
pub fn record(data_dir: &Path, place: &Place) -> Result<(), String> {
    let path = data_dir.join(ADDRESSES);
    let Place { name, addresses: MemberAddresses { etcd, peer, admin } } = place;
    let text = format!("name {name}\netcd {etcd}\npeer {peer}\nadmin {admin}\n");
    if std::fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
        return Ok(());
    }
    let unfinished = data_dir.join(format!("{ADDRESSES}.new"));
    let write = || {
        let absolute = std::path::absolute(data_dir)?;
        let missing = absolute.ancestors().take_while(|level| !level.exists()).count();
        // Closed to others, as the member would have it.
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
        let mut file = File::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        File::open(data_dir)?.sync_all()?;
        let mut above = absolute.ancestors().skip(1).take(missing);
        above.try_for_each(|level| File::open(level)?.sync_all())
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// The directory's member is none of the cluster.
fn forget(data_dir: &Path) -> Result<(), String> {
    let path = data_dir.join(ADDRESSES);
    let remove = || {
        std::fs::remove_file(&path)?;
        File::open(data_dir)?.sync_all()
    };
    remove().map_err(|error| format!("cannot remove {}: {error}", path.display()))
}

/// None if an earlier version made the directory.
fn recorded(data_dir: &Path) -> Result<Option<Place>, String> {
    let path = data_dir.join(ADDRESSES);
    let mut text = String::new();
    let read =
        File::open(&path).and_then(|file| file.take(ADDRESSES_BYTES_MAX).read_to_string(&mut text));
    let place = match read {
        Ok(_) => parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // It is no text.
        Err(error) if error.kind() == ErrorKind::InvalidData => None,
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let damaged = || {
        format!(
            "{} is damaged: write the node's name and addresses into it, as in those of the other \
             nodes",
            path.display()
        )
    };
    place.map(Some).ok_or_else(damaged)
}

/// For a sentence: whoever cannot be read has none.
fn id(data_dir: &Path) -> Option<String> {
    let mut identity = String::new();
    let file = File::open(data_dir.join("identity")).ok()?;
    file.take(ADDRESSES_BYTES_MAX).read_to_string(&mut identity).ok()?;
    let id = identity.lines().find_map(|line| line.strip_prefix("member "))?;
    u64::from_str_radix(id, 16).ok().map(|id| format!("{id:x}"))
}

fn parse(text: &str) -> Option<Place> {
    let mut lines = text.lines();
    let mut field = |name: &str| {
        let value = lines.next()?.strip_prefix(name)?.strip_prefix(' ')?;
        (!value.is_empty()).then(|| value.to_owned())
    };
    let name = field("name")?;
    let addresses =
        MemberAddresses { etcd: field("etcd")?, peer: field("peer")?, admin: field("admin")? };
    lines.next().is_none().then_some(Place { name, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(number: usize, standing: Standing, offset: u16) -> Found {
        let id = (standing != Standing::Unused).then(|| format!("{:x}", 0xa0 + number));
        Found { number, standing, recorded: planned(number, offset).ok(), id }
    }

    fn three(offset: u16) -> Vec<Found> {
        (1..=3).map(|number| found(number, Standing::Member, offset)).collect()
    }

    fn clients(layout: &Layout) -> Vec<&str> {
        layout.members.iter().map(|(_, place)| place.addresses.etcd.as_str()).collect()
    }

    fn arrange(
        found: &[Found],
        nodes: Option<usize>,
        offset: Option<u16>,
    ) -> Result<Layout, String> {
        super::arrange(found, "dev-data", nodes, offset)
    }

    #[test]
    fn a_new_cluster_is_what_was_asked_for() {
        let layout = arrange(&[], None, None).expect("three");
        assert_eq!(clients(&layout), ["127.0.0.1:2379", "127.0.0.1:12379", "127.0.0.1:22379"]);
        assert_eq!(layout.next.expect("room").name, "n4");
        let layout = arrange(&[], Some(1), Some(7)).expect("one");
        assert_eq!(clients(&layout), ["127.0.0.1:2386"]);
        // A start that was interrupted before anybody ran left nothing that counts.
        let unused = [found(1, Standing::Unused, 0), found(2, Standing::Unused, 0)];
        assert_eq!(arrange(&unused, None, None).expect("three").members.len(), 3);
        arrange(&[], Some(6), None).expect_err("too many");
    }

    #[test]
    fn what_is_there_comes_back_where_it_was() {
        for (nodes, offset) in [(None, None), (Some(3), Some(100))] {
            let layout = arrange(&three(100), nodes, offset).expect("three");
            assert_eq!(layout, arrange(&[], Some(3), Some(100)).expect("three"));
        }
    }

    #[test]
    fn who_joined_at_ports_of_its_own_keeps_them() {
        let mut there = three(0);
        let own = MemberAddresses {
            etcd: "127.0.0.1:2479".to_owned(),
            peer: "127.0.0.1:2480".to_owned(),
            admin: "127.0.0.1:2481".to_owned(),
        };
        let recorded = Some(Place { name: "fourth".to_owned(), addresses: own.clone() });
        there.push(Found { recorded, ..found(4, Standing::Member, 0) });
        let layout = arrange(&there, None, None).expect("four");
        let (directory, place) = &layout.members[3];
        assert_eq!((directory.as_str(), place.name.as_str()), ("n4", "fourth"));
        assert_eq!(place.addresses, own);
        assert_eq!(layout.next, planned(5, 0).ok());
    }

    #[test]
    fn who_was_removed_is_left_out() {
        let mut there = three(0);
        there[1].standing = Standing::Removed;
        let layout = arrange(&there, None, None).expect("two");
        assert_eq!(clients(&layout), ["127.0.0.1:2379", "127.0.0.1:22379"]);
        assert_eq!(layout.removed, ["n2"]);
        assert_eq!(layout.next.expect("room").name, "n4", "no directory is used again");
        there.iter_mut().for_each(|member| member.standing = Standing::Removed);
        let refusal = arrange(&there, None, None).expect_err("nobody is left");
        assert!(refusal.contains("was removed"), "{refusal}");
    }

    #[test]
    fn an_interrupted_start_is_finished_and_an_interrupted_join_left_out() {
        let mut there = three(0);
        there[2].standing = Standing::Unused;
        there.push(Found { recorded: None, ..found(4, Standing::Unused, 0) });
        assert_eq!(arrange(&there, None, None).expect("three").members.len(), 3);
    }

    #[test]
    fn only_contradictions_are_refused() {
        let there = three(100);
        let refusal = arrange(&there, Some(5), None).expect_err("it has three nodes");
        assert!(refusal.contains("holds a cluster of 3 nodes"), "{refusal}");
        let refusal = arrange(&there, None, Some(0)).expect_err("it has other ports");
        assert!(refusal.contains("--offset 100"), "{refusal}");
        let mut twice = there;
        twice[2].recorded = twice[1].recorded.clone();
        let refusal = arrange(&twice, None, None).expect_err("the same ports");
        let both = "n2 (member a2) and n3 (member a3) in dev-data both listen on";
        assert!(refusal.contains(both) && !refusal.contains("remove"), "{refusal}");
    }

    #[test]
    fn a_directory_of_an_earlier_version_counts_as_planned() {
        let mut there = three(0);
        there.iter_mut().for_each(|member| member.recorded = None);
        let layout = arrange(&there, None, Some(100)).expect("three");
        assert_eq!(layout, arrange(&[], None, Some(100)).expect("three"));
    }

    /// A directory of the test's own.
    struct Root(std::path::PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            Root(std::env::temp_dir().join(format!("quorate-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    /// Trap: whoever was laid out with a start that never ran would found a cluster beside it.
    #[test]
    fn a_start_that_was_cut_off_leaves_no_founders_to_the_next() {
        let root = Root::new("founders");
        let Root(root) = &root;
        lay_out(root, None, None).expect("three").record(root).expect("recorded");
        let one = lay_out(root, Some(1), None).expect("one");
        assert_eq!(one.abandoned, ["n2", "n3"]);
        one.record(root).expect("recorded");
        std::fs::write(root.join("n1/identity"), "").expect("it ran");
        let again = lay_out(root, None, None).expect("one");
        assert_eq!((again.members, again.abandoned), (one.members, Vec::new()));
    }

    #[test]
    fn the_file_is_written_only_if_it_says_something_else() {
        use std::os::unix::fs::MetadataExt;
        let root = Root::new("addresses");
        let data_dir = root.0.join("n1");
        let inode = || std::fs::metadata(data_dir.join(ADDRESSES)).expect("written").ino();
        record(&data_dir, &planned(1, 0).expect("a place")).expect("recorded");
        let first = inode();
        record(&data_dir, &planned(1, 0).expect("a place")).expect("recorded");
        assert_eq!(inode(), first);
        let other = planned(1, 7).expect("a place");
        record(&data_dir, &other).expect("recorded");
        assert_eq!(recorded(&data_dir), Ok(Some(other)));
    }

    #[test]
    fn only_what_is_not_there_is_none() {
        let root = Root::new("unreadable");
        let addresses = root.0.join("n1").join(ADDRESSES);
        std::fs::create_dir_all(&addresses).expect("made");
        let refusal = lay_out(&root.0, None, None).expect_err("it is a directory");
        assert!(refusal.starts_with(&format!("cannot read {}", addresses.display())), "{refusal}");
        std::fs::remove_dir(&addresses).expect("removed");
        std::fs::write(&addresses, b"\xff").expect("written");
        let refusal = lay_out(&root.0, None, None).expect_err("it is no text");
        assert!(refusal.contains("is damaged") && !refusal.contains("remove"), "{refusal}");
        let refusal = lay_out(&addresses, None, None).expect_err("it is a file");
        assert!(refusal.starts_with("cannot read"), "{refusal}");
    }

    #[test]
    fn the_file_says_what_was_recorded() {
        let root = Root::new("dev");
        let Root(root) = &root;
        let place = planned(2, 7).expect("a place");
        let golden = "name n2\netcd 127.0.0.1:12386\npeer 127.0.0.1:12387\n\
                      admin 127.0.0.1:12388\n";
        record(&root.join("n2"), &place).expect("recorded");
        let text = std::fs::read_to_string(root.join("n2/addresses")).expect("written");
        assert_eq!(text, golden);
        for other in ["n02", "n", "n0", "nodes", "n2.log"] {
            std::fs::create_dir(root.join(other)).expect("made");
        }
        let one = look(root).expect("sound");
        let unused =
            Found { number: 2, standing: Standing::Unused, recorded: Some(place), id: None };
        assert_eq!(one, [unused]);
        let identity = "quorate data directory\nformat 2\ncluster 00\nmember 00000000000000af\n";
        std::fs::write(root.join("n2/identity"), identity).expect("written");
        let member = &look(root).expect("sound")[0];
        assert_eq!((member.standing, member.id.as_deref()), (Standing::Member, Some("af")));
        std::fs::write(root.join("n2/removed"), "").expect("written");
        assert_eq!(look(root).expect("sound")[0].standing, Standing::Removed);
        for damaged in [&golden[1..], &golden[..40], "name \netcd a\npeer b\nadmin c\n", ""] {
            std::fs::write(root.join("n2/addresses"), damaged).expect("written");
            assert!(lay_out(root, None, None).expect_err("damaged").contains("is damaged"));
        }
    }
}
