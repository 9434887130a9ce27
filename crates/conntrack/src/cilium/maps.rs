//! Which maps there are: found by name among the pins of a directory, and accepted by their sizes alone.
//!
//! Global maps are `cilium_ct4_global`, `cilium_ct_any4_global` and the same with 6, those of one endpoint end in its
//! number (until 1.17), and `cilium_per_cluster_ct_*` are arrays of maps, one for each cluster (from 1.14). An upgrade may
//! pin others under the same names. A map whose pin is gone is read on for [`UNSEEN_READS_MAX`] reads: endpoints move over
//! to its successor one by one. A map that this process may not open is left for good: it would not become allowed, and one
//! that did would show what it counted for years as if that were new. Bound: the pins of the directory, and what arrays hold.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::PathBuf;

use super::codec::{KEY_V4_BYTES, KEY_V6_BYTES, VALUE_BYTES};
use super::edge::{Kind, Map};
use super::error::{ReadError, is_refusal};

const PREFIXES: [&str; 2] = ["cilium_ct", "cilium_per_cluster_ct"];
/// A minute, at an interval of 5 s.
const UNSEEN_READS_MAX: u32 = 12;
/// Clusters of a mesh, by the largest `--max-connected-clusters`.
const CLUSTERS_MAX: u32 = 512;

/// The conntrack maps of a directory.
#[derive(Debug)]
pub(super) struct Pinned {
    directory: PathBuf,
    pins: Vec<Pin>,
    held: Vec<Held>,
    /// Maps of arrays that must not be opened, by the kernel's names for them.
    refused_ids: Vec<u32>,
    /// The first map that must not be opened, and how the kernel put it.
    refused: Option<(PathBuf, io::Error)>,
}

#[derive(Debug)]
struct Pin {
    name: OsString,
    /// Another one under the same name is another pin.
    inode: u64,
    of: Of,
    is_there: bool,
}

#[derive(Debug)]
enum Of {
    /// A map with entries, by the kernel's name for it.
    Entries(u32),
    /// Maps that hold entries.
    Array(Map),
    /// A map that is named like one of these and is none that this version knows.
    Foreign,
    /// One that must not be opened.
    Refused,
}

#[derive(Debug)]
struct Held {
    map: Map,
    path: PathBuf,
    unseen_reads: u32,
}

/// What a look found beside the maps.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Maps of the right name and of sizes that this version does not know.
    pub(super) foreign: u64,
    /// Maps that must not be opened.
    pub(super) refused: u64,
    /// The first that could not be opened this time.
    pub(super) failed: Option<(PathBuf, io::Error)>,
}

impl Pinned {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, pins: Vec::new(), held: Vec::new(), refused_ids: Vec::new(), refused: None }
    }

    /// What there is to read, each once, with where it was found.
    pub(super) fn maps(&self) -> impl Iterator<Item = (&Map, &PathBuf)> {
        self.held.iter().map(|held| (&held.map, &held.path))
    }

    /// The first map that must not be opened, as long as there is any.
    pub(super) fn refused(&self) -> Option<(&PathBuf, &io::Error)> {
        self.refused.as_ref().map(|(path, error)| (path, error))
    }

    /// The map of this id.
    pub(super) fn map(&self, id: u32) -> Option<&Map> {
        self.held.iter().map(|held| &held.map).find(|map| map.id == id)
    }

    /// Looks at the directory again.
    pub(super) fn look(&mut self) -> Result<Look, ReadError> {
        let mut look = Look::default();
        self.pins.iter_mut().for_each(|pin| pin.is_there = false);
        self.held.iter_mut().for_each(|held| held.unseen_reads += 1);
        let list = |source| ReadError::Directory { directory: self.directory.clone(), source };
        let files =
            fs::read_dir(&self.directory).map_err(list)?.collect::<Result<Vec<_>, _>>().map_err(list)?;
        for file in files {
            let name = file.file_name();
            let is_named =
                name.to_str().is_some_and(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
            if is_named {
                self.meet(name, file.ino(), &mut look);
            }
        }
        self.pins.retain(|pin| pin.is_there);
        self.meet_those_of_arrays(&mut look);
        self.held.retain(|held| held.unseen_reads <= UNSEEN_READS_MAX);
        let count = |is: fn(&Of) -> bool| self.pins.iter().filter(|pin| is(&pin.of)).count() as u64;
        look.foreign = count(|of| matches!(of, Of::Foreign));
        look.refused = count(|of| matches!(of, Of::Refused)) + self.refused_ids.len() as u64;
        if look.refused == 0 {
            self.refused = None;
        }
        Ok(look)
    }

    fn meet(&mut self, name: OsString, inode: u64, look: &mut Look) {
        if let Some(pin) = self.pins.iter_mut().find(|pin| pin.inode == inode && pin.name == name) {
            pin.is_there = true;
            if let Of::Entries(id) = pin.of {
                see(&mut self.held, id);
            }
            return;
        }
        let path = self.directory.join(&name);
        let of = match Map::pinned(&path) {
            Ok(map) if holds_entries(&map) => {
                let id = map.id;
                self.hold(map, path);
                Of::Entries(id)
            }
            Ok(map) if map.kind == Kind::ArrayOfMaps && (map.key_bytes, map.value_bytes) == (4, 4) => {
                Of::Array(map)
            }
            Ok(_) => Of::Foreign,
            // It went while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if is_refusal(&error) => {
                self.refused.get_or_insert((path, error));
                Of::Refused
            }
            Err(error) => {
                look.failed.get_or_insert((path, error));
                return;
            }
        };
        self.pins.push(Pin { name, inode, of, is_there: true });
    }

    /// A map of an array is mostly pinned by itself as well.
    fn meet_those_of_arrays(&mut self, look: &mut Look) {
        let pins = std::mem::take(&mut self.pins);
        let refused_ids = std::mem::take(&mut self.refused_ids);
        for pin in &pins {
            let Of::Array(array) = &pin.of else { continue };
            for cluster in 0..array.entries_max.min(CLUSTERS_MAX) {
                let mut id = [0; 4];
                if !array.look_up(&cluster.to_ne_bytes(), &mut id).unwrap_or(false) {
                    continue;
                }
                let id = u32::from_ne_bytes(id);
                if see(&mut self.held, id) {
                    continue;
                }
                if refused_ids.contains(&id) {
                    self.refused_ids.push(id);
                    continue;
                }
                let path = self.directory.join(&pin.name).join(cluster.to_string());
                match Map::by_id(id) {
                    Ok(map) if holds_entries(&map) => self.hold(map, path),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) if is_refusal(&error) => {
                        self.refused_ids.push(id);
                        self.refused.get_or_insert((path, error));
                    }
                    Err(error) => {
                        look.failed.get_or_insert((path, error));
                    }
                }
            }
        }
        self.pins = pins;
    }

    fn hold(&mut self, map: Map, path: PathBuf) {
        if !see(&mut self.held, map.id) {
            self.held.push(Held { map, path, unseen_reads: 0 });
        }
    }
}

/// Notes that a held map is there; false when it is not held.
fn see(held: &mut [Held], id: u32) -> bool {
    let found = held.iter_mut().find(|held| held.map.id == id);
    found.map(|held| held.unseen_reads = 0).is_some()
}

fn holds_entries(map: &Map) -> bool {
    map.kind == Kind::Hash
        && matches!(map.key_bytes, KEY_V4_BYTES | KEY_V6_BYTES)
        && map.value_bytes == VALUE_BYTES
}
