//! Loads the programs, attaches them, and pins what is to outlive this process.
//!
//! Pinned are the maps first and the links last, so that a directory with a link has all maps. A process that finds
//! them goes on with the tables as they are and puts its own programs in place of the old ones, which the kernel does in
//! one step: nothing goes uncounted.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::{ErrorExt as _, Link, MapCore as _, MapFlags, MapHandle, Object, ObjectBuilder, ProgramMut};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::cgroup;
use super::counts::{CountsConfig, Warning};
use super::error::OpenError;
use super::row::{Pair, Sums};

/// Of the layout of the maps: a version that changes them pins elsewhere.
const LAYOUT: &str = "counts-1";

/// The object file wants to begin where an ELF header may.
#[repr(C, align(8))]
struct Aligned<Bytes: ?Sized>(Bytes);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/count.bpf.o")));

/// The maps, named as in `count.bpf.c`.
const TABLES: [&str; 2] = ["table_0", "table_1"];
const ACTIVE: &str = "active";
const BOOTED: &str = "booted";
const LOST: &str = "lost";
const MAPS: [&str; 5] = [TABLES[0], TABLES[1], ACTIVE, BOOTED, LOST];

/// The programs in the kernel, attached to nothing: whether it takes them is known.
pub struct Programs {
    object: Object,
}

impl Programs {
    /// Has the kernel check them and make tables of a size.
    ///
    /// # Errors
    /// [`OpenError::Load`].
    pub fn load(entries_max: NonZeroU32) -> Result<Self, OpenError> {
        Self::load_with(entries_max, None).map_err(OpenError::Load)
    }

    /// With the maps pinned in `pins`, or fresh ones.
    fn load_with(entries_max: NonZeroU32, pins: Option<&Path>) -> libbpf_rs::Result<Self> {
        let mut open = ObjectBuilder::default().name("egressd_count")?.open_memory(&OBJECT.0)?;
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if let Some(pins) = pins {
                map.reuse_pinned_map(pins.join(&name)).with_context(|| format!("go on with {name}"))?;
            } else if TABLES.contains(&name.as_str()) {
                map.set_max_entries(entries_max.get())?;
            }
        }
        Ok(Self { object: open.load()? })
    }

    fn map(&self, name: &str) -> libbpf_rs::Result<MapHandle> {
        let map = self.object.maps().find(|map| map.name() == name);
        MapHandle::try_from(&map.ok_or_else(|| missing(name))?)
    }
}

/// The maps of the programs.
pub(super) struct Maps {
    pub(super) tables: [MapHandle; 2],
    pub(super) active: MapHandle,
    pub(super) booted: MapHandle,
    pub(super) lost: MapHandle,
}

impl Maps {
    fn of(programs: &Programs) -> libbpf_rs::Result<Self> {
        let tables = [programs.map(TABLES[0])?, programs.map(TABLES[1])?];
        tables.iter().try_for_each(check_sizes)?;
        let [active, booted, lost] = [programs.map(ACTIVE)?, programs.map(BOOTED)?, programs.map(LOST)?];
        Ok(Self { tables, active, booted, lost })
    }

    fn pin(&mut self, pins: &Pins) -> Result<(), OpenError> {
        let [table_0, table_1] = &mut self.tables;
        let maps = [table_0, table_1, &mut self.active, &mut self.booted, &mut self.lost];
        let mut named = maps.into_iter().zip(MAPS);
        let pinned = named.try_for_each(|(map, name)| map.pin(pins.path.join(name)));
        pinned.map_err(|source| pins.fault()(io::Error::other(source)))
    }
}

/// What counts, and keeps counting as long as this lives; and longer, where it is pinned.
pub(super) struct Attached {
    pub(super) maps: Maps,
    /// The maps are those of a process before.
    pub(super) is_continued: bool,
    pub(super) warnings: Vec<Warning>,
    /// Of the program that counts what is sent, and of the other.
    pub(super) links: Vec<Link>,
    _lock: Option<Flock<File>>,
}

impl Attached {
    /// `booted` is what a table that begins now is stamped with.
    pub(super) fn new(config: &CountsConfig, booted: &[u8; 8]) -> Result<Self, OpenError> {
        let cgroup = config.cgroup.clone().map_or_else(cgroup::root, Ok)?;
        let mut warnings = Vec::new();
        let pins = Pins::of(config.pin_dir.as_deref(), &mut warnings)?;
        let old = pins.as_ref().filter(|pins| pins.are_whole()).map(|pins| pins.path.as_path());
        let programs = Programs::load_with(config.entries_max, old).map_err(|source| match old {
            Some(path) => OpenError::Pins { path: path.to_owned(), source: io::Error::other(source) },
            None => OpenError::Load(source),
        })?;
        let mut maps = Maps::of(&programs).map_err(OpenError::Look)?;
        let is_continued = old.is_some();
        if !is_continued {
            let stamped = maps.booted.update(&0u32.to_ne_bytes(), booted, MapFlags::ANY);
            stamped.map_err(OpenError::Look)?;
            pins.iter().try_for_each(|pins| maps.pin(pins))?;
        }
        let entries_max = maps.tables[0].max_entries();
        if entries_max != config.entries_max.get() {
            warnings.push(Warning::OldBound { entries_max });
        }
        let links = attach(programs, &cgroup, pins.as_ref())?;
        Ok(Self { maps, is_continued, warnings, links, _lock: pins.map(|pins| pins.lock) })
    }
}

fn attach(programs: Programs, cgroup: &Path, pins: Option<&Pins>) -> Result<Vec<Link>, OpenError> {
    let open = |source| OpenError::CgroupPath { path: cgroup.to_owned(), source };
    let directory = File::open(cgroup).map_err(open)?;
    let id = directory.metadata().map_err(open)?.ino();
    let refused = |source| OpenError::Attach { path: cgroup.to_owned(), source };
    let mut links = Vec::new();
    for program in programs.object.progs_mut() {
        let pin = pins.map(|pins| pins.path.join(program.name()));
        if let Some(link) = pin.as_deref().and_then(|pin| taken_over(pin, id, &program)) {
            links.push(link);
            continue;
        }
        let mut link = program.attach_cgroup(directory.as_raw_fd()).map_err(refused)?;
        if let Some(pin) = pin {
            // That of another cgroup ends with its name.
            let pinned = match fs::remove_file(&pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => link.pin(&pin).map_err(io::Error::other),
            };
            pinned.map_err(|source| OpenError::Pins { path: pin, source })?;
        }
        links.push(link);
    }
    Ok(links)
}

/// The pinned link with our program in place of its own, where it is one of that cgroup.
fn taken_over(pin: &Path, cgroup_id: u64, program: &ProgramMut<'_>) -> Option<Link> {
    let mut link = pin.exists().then(|| Link::open(pin).ok())??;
    let LinkTypeInfo::Cgroup(of) = link.info().ok()?.info else { return None };
    let is_ours = of.cgroup_id == cgroup_id;
    (is_ours && link.update_prog(program).is_ok()).then_some(link)
}

/// Removes what a collector of another mode, or one that is gone, left pinned below `pin_dir`: its programs end with it.
///
/// # Errors
/// [`OpenError::InUse`] when one counts with it now, [`OpenError::Pins`] when it cannot be removed.
pub fn forget(pin_dir: &Path) -> Result<(), OpenError> {
    if !pin_dir.join(LAYOUT).exists() {
        return Ok(());
    }
    let pins = Pins::lock(pin_dir)?;
    pins.clear().and_then(|()| fs::remove_dir(&pins.path)).map_err(pins.fault())
}

/// The directory of what is pinned, held against another process.
struct Pins {
    path: PathBuf,
    lock: Flock<File>,
}

impl Pins {
    /// Those to go on with, whole, or an empty place for new ones; none where nothing can be pinned.
    fn of(pin_dir: Option<&Path>, warnings: &mut Vec<Warning>) -> Result<Option<Self>, OpenError> {
        let Some(path) = pin_dir else { return Ok(None) };
        if !is_bpffs(path) {
            warnings.push(Warning::NoBpffs { path: path.to_owned() });
            return Ok(None);
        }
        let pins = Self::lock(path)?;
        if !pins.are_whole() {
            pins.clear().map_err(pins.fault())?;
        }
        Ok(Some(pins))
    }

    fn lock(pin_dir: &Path) -> Result<Self, OpenError> {
        let path = pin_dir.join(LAYOUT);
        let fault = |source| OpenError::Pins { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fault)?;
        let directory = File::open(&path).map_err(fault)?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(OpenError::InUse { path }),
            Err((_, errno)) => Err(fault(errno.into())),
        }
    }

    fn are_whole(&self) -> bool {
        MAPS.iter().all(|name| self.path.join(name).exists())
    }

    fn clear(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.path)? {
            fs::remove_file(file?.path())?;
        }
        Ok(())
    }

    fn fault(&self) -> impl Fn(io::Error) -> OpenError {
        let path = self.path.clone();
        move |source| OpenError::Pins { path: path.clone(), source }
    }
}

/// Whether `path`, or the nearest directory above that is there, is of a BPF file system.
fn is_bpffs(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists());
    there.and_then(|path| statfs(path).ok()).is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// What `kernel` relies on.
fn check_sizes(table: &MapHandle) -> libbpf_rs::Result<()> {
    let found = (usize::try_from(table.key_size()), usize::try_from(table.value_size()));
    match found == (Ok(size_of::<Pair>()), Ok(size_of::<Sums>())) {
        true => Ok(()),
        false => Err(libbpf_rs::Error::from(io::Error::from(io::ErrorKind::InvalidData)))
            .with_context(|| format!("keys and values of {found:?} bytes")),
    }
}

fn missing(name: &str) -> libbpf_rs::Error {
    Err::<(), _>(libbpf_rs::Error::from(io::Error::from(io::ErrorKind::NotFound)))
        .with_context(|| format!("map {name}"))
        .expect_err("it is one")
}
