//! What Cilium leaves on a node: conntrack maps on a BPF file system, and an agent that says who it is.
//!
//! The maps are real ones of this kernel. Keys and values come from captures of real datapaths or byte by byte from a test;
//! nothing here knows what they mean.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use libbpf_rs::libbpf_sys::bpf_map_create_opts;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use serde_json::Value;

/// Where Cilium pins its maps.
pub const MAP_DIR: &str = "/sys/fs/bpf/tc/globals";

/// Bytes of an IPv4 key, of an IPv6 key, and of a value.
pub const SIZES: (u32, u32, u32) = (14, 38, 56);

/// Gives the calling thread, and what it starts by itself, a mount namespace of its own with an empty BPF file system in it, and
/// Cilium's directory there.
///
/// # Errors
/// Not root, or a kernel without BPF.
pub fn mount_bpf() -> io::Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)?;
    fs::create_dir_all(MAP_DIR)?;
    Ok(MAP_DIR.into())
}

/// The path that leads processes of any mount namespace to `path` in the calling thread's, as long as that lives.
///
/// Daemons are started by a thread of their own and see what that sees.
#[must_use]
pub fn from_elsewhere(path: &str) -> String {
    format!("/proc/{}/task/{}/root{path}", std::process::id(), gettid())
}

/// A pinned map.
pub struct CtMap {
    handle: MapHandle,
}

/// What a map is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// As Cilium makes them, or a plain hash table.
    pub lru: bool,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// Room.
    pub entries_max: u32,
}

impl Shape {
    /// As Cilium makes one for IPv4.
    pub const V4: Self = Self { lru: true, key_bytes: SIZES.0, value_bytes: SIZES.2, entries_max: 16_384 };
    /// As Cilium makes one for IPv6.
    pub const V6: Self = Self { key_bytes: SIZES.1, ..Self::V4 };
}

impl CtMap {
    /// Makes a map and pins it under `name`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pin(directory: &Path, name: &str, shape: Shape) -> io::Result<Self> {
        let mut map = Self::unpinned(shape)?;
        map.handle.pin(directory.join(name)).map_err(io::Error::other)?;
        Ok(map)
    }

    /// Makes a map that nothing is pinned for.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unpinned(shape: Shape) -> io::Result<Self> {
        let kind = if shape.lru { MapType::LruHash } else { MapType::Hash };
        Self::create(kind, shape, 0)
    }

    /// Makes an array of maps like `inner` with these in its first places but the very first, and pins it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pin_array(directory: &Path, name: &str, inner: &[&Self]) -> io::Result<Self> {
        let shape = Shape { lru: false, key_bytes: 4, value_bytes: 4, entries_max: 256 };
        let fd = |map: &Self| map.handle.as_fd().as_raw_fd().cast_unsigned();
        let mut array = Self::create(MapType::ArrayOfMaps, shape, inner.first().map_or(0, |map| fd(map)))?;
        for (at, map) in (1u32..).zip(inner) {
            array.put(&at.to_ne_bytes(), &fd(map).to_ne_bytes())?;
        }
        array.handle.pin(directory.join(name)).map_err(io::Error::other)?;
        Ok(array)
    }

    fn create(kind: MapType, shape: Shape, inner_map_fd: u32) -> io::Result<Self> {
        let options = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as libbpf_rs::libbpf_sys::size_t,
            inner_map_fd,
            ..Default::default()
        };
        let Shape { key_bytes, value_bytes, entries_max, .. } = shape;
        let handle =
            MapHandle::create(kind, Some("cilium_ct"), key_bytes, value_bytes, entries_max, &options);
        Ok(Self { handle: handle.map_err(io::Error::other)? })
    }

    /// Writes one entry, as the datapath would.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.handle.update(key, value, MapFlags::ANY).map_err(io::Error::other)
    }

    /// Writes many entries, one behind the other in both.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put_all(&self, keys: &[u8], values: &[u8], count: u32) -> io::Result<()> {
        self.handle.update_batch(keys, values, count, MapFlags::ANY, MapFlags::ANY).map_err(io::Error::other)
    }

    /// Its descriptor's number in this process.
    #[must_use]
    pub fn descriptor(&self) -> i32 {
        self.handle.as_fd().as_raw_fd()
    }

    /// Removes an entry, as the agent would; true when it was there.
    pub fn remove(&self, key: &[u8]) -> bool {
        self.handle.delete(key).is_ok()
    }
}

/// Pins the maps of a capture: for each `NAME.json`, what `bpftool -j map dump` printed, with `NAME.info.json` beside it,
/// what `bpftool -j map show` did.
///
/// # Errors
/// A file that is none of these, and the kernel's.
pub fn pin_capture(capture: &Path, directory: &Path) -> io::Result<Vec<CtMap>> {
    let mut maps = Vec::new();
    for file in fs::read_dir(capture)? {
        let path = file?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".info.json")) else {
            continue;
        };
        let (info, rows) = (json(&path)?, json(&capture.join(format!("{name}.json")))?);
        let number = |key: &str| info[key].as_u64().and_then(|number| u32::try_from(number).ok());
        let shape = || {
            Some(Shape {
                lru: info["type"] == "lru_hash",
                key_bytes: number("bytes_key")?,
                value_bytes: number("bytes_value")?,
                entries_max: number("max_entries")?,
            })
        };
        let map = CtMap::pin(directory, name, shape().ok_or(io::ErrorKind::InvalidData)?)?;
        for row in rows.as_array().ok_or(io::ErrorKind::InvalidData)? {
            let (key, value) =
                bytes(&row["key"]).zip(bytes(&row["value"])).ok_or(io::ErrorKind::InvalidData)?;
            map.put(&key, &value)?;
        }
        maps.push(map);
    }
    Ok(maps)
}

fn json(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// `["0x0a", …]`.
fn bytes(json: &Value) -> Option<Vec<u8>> {
    let byte = |text: &Value| u8::from_str_radix(text.as_str()?.strip_prefix("0x")?, 16).ok();
    json.as_array()?.iter().map(byte).collect()
}

/// An agent that answers `/v1/healthz` and `/v1/config` until it is dropped, and takes its socket with it.
pub struct Agent {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

impl Agent {
    /// An agent of this version, whose accounting is on or off.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(socket: &Path, version: &str, accounting: bool) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let health = format!(
            r#"{{"cilium":{{"state":"Ok","msg":"{version} (v{version}-0a1b2c3d)"}},"clock-source":{{"mode":"ktime"}}}}"#
        );
        let option = if accounting { "Enabled" } else { "Disabled" };
        let config =
            format!(r#"{{"status":{{"realized":{{"options":{{"ConntrackAccounting":"{option}"}}}}}}}}"#);
        let answering = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    // Who asks nothing, or has hung up, misses nothing.
                    let _unheard = answer(stream, &health, &config);
                }
            }
        });
        Ok(Self { socket: socket.to_owned(), stop, answering: Some(answering) })
    }
}

fn answer(mut stream: UnixStream, health: &str, config: &str) -> io::Result<()> {
    let mut question = [0; 1024];
    let read = stream.read(&mut question)?;
    let body = match &question[..read] {
        question if question.starts_with(b"GET /v1/healthz ") => health,
        question if question.starts_with(b"GET /v1/config ") => config,
        _ => return stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n"),
    };
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the one who accepts.
        drop(UnixStream::connect(&self.socket));
        drop(self.answering.take().map(JoinHandle::join));
        drop(fs::remove_file(&self.socket));
    }
}
