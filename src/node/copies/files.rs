//! Copies in files, from a node that drained to the next process of its name.
//!
//! In: what an incarnation left ([`Kept`]), and the service's chunks. Out: one file a partition, written beside its name, synced and
//! renamed; read, checked and removed at the next start. A file that is damaged, or of another ring, is refused: the copy is made anew.
//!
//! # Format 1
//! `NRCP`, `1`; length (4 bytes) and postcard of the [`Head`]; length and bytes of each chunk; length 0; XXH3-64 of all before. Numbers
//! are little-endian. How long it was away is what the wall clock of this machine says: it is compared with none of another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::{Kept, bounds, discard};
use crate::node::parts::{NodeParts, RingShape};
use crate::replica::{Bounds, Follower};
use crate::types::{Epoch, Generation, PartitionId, Time, Version};

const MAGIC: [u8; 5] = *b"NRCP\x01";
const CHUNK_BYTES: usize = 1024 * 1024;
/// No chunk, for an entry may be larger than it should, has more.
const CHUNK_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What is left for the next process, at the most, and how long writing it may take: a process that is asked to end has not long.
const KEPT_BYTES_MAX: u64 = 4_000_000_000;
const KEEPING_LIMIT: Duration = Duration::from_secs(20);

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    ring: Uuid,
    generation: Generation,
    partition: PartitionId,
    /// The owner it followed.
    promised: Epoch,
    /// It has everything up to here, and nothing else.
    at: Version,
    /// Milliseconds since 1970, on this machine's wall clock.
    written_ms: u64,
}

/// Why a file cannot be used, or not be written.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it is of format {0}, which this release does not know")]
    Format(u8),
    #[error("it is of another ring, or of another life of its store")]
    Foreign,
    #[error("the service refuses it: {0}")]
    Refused(crate::service::BoxError),
    #[error("it is beyond what is kept: {KEPT_BYTES_MAX} bytes, {KEEPING_LIMIT:?}")]
    Beyond,
}

/// Writes what goes through it, and remembers it as a checksum.
struct Hashed<T> {
    inner: T,
    hash: Xxh3,
    bytes: u64,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        Self { inner, hash: Xxh3::new(), bytes: 0 }
    }
}

impl<T: Write> Hashed<T> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(self.inner.write_all(bytes)?)
    }

    fn put_sized(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.put(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.put(bytes)
    }
}

impl<T: Read> Hashed<T> {
    fn take(&mut self, length: usize) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; length];
        self.inner.read_exact(&mut bytes).map_err(|_| FileError::Damaged("it ends too early"))?;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn take_sized(&mut self) -> Result<Vec<u8>, FileError> {
        let length = self.take(4)?;
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        if length > CHUNK_BYTES_MAX {
            return Err(FileError::Damaged("a part of it is too long"));
        }
        self.take(length)
    }
}

/// Where and what.
struct Place<'a> {
    folder: &'a Path,
    parts: &'a NodeParts,
    shape: &'a RingShape,
}

impl Place<'_> {
    fn file(&self, partition: PartitionId) -> PathBuf {
        self.folder.join(format!("{}.{}.{partition}.copy", self.parts.ring, self.parts.node))
    }

    fn write(&self, partition: PartitionId, follower: &Follower, room: u64, until: Time) -> Result<u64, FileError> {
        let service = &*self.parts.service;
        let (Some(at), Some(chunks)) = (follower.at(), service.copy_chunks(partition, CHUNK_BYTES)) else {
            return Ok(0);
        };
        let RingShape { nonce: ring, generation, .. } = *self.shape;
        let head = Head { ring, generation, partition, promised: follower.promised(), at, written_ms: wall_clock_ms() };
        let head = postcard::to_stdvec(&head).map_err(|_| FileError::Damaged("its head cannot be written"))?;
        // Of this user alone: entries stand in it as they are.
        let mut file = tempfile::NamedTempFile::new_in(self.folder)?;
        let mut out = Hashed::new(BufWriter::new(file.as_file_mut()));
        out.put(&MAGIC)?;
        out.put_sized(&head)?;
        for chunk in chunks {
            let chunk = chunk.map_err(FileError::Refused)?;
            out.put_sized(&chunk)?;
            if out.bytes > room || self.parts.clock.now() > until {
                return Err(FileError::Beyond);
            }
        }
        out.put_sized(&[])?;
        let (checksum, bytes) = (out.hash.digest(), out.bytes);
        out.inner.write_all(&checksum.to_le_bytes())?;
        out.inner.flush()?;
        drop(out);
        file.as_file().sync_all()?;
        file.persist(self.file(partition)).map_err(|error| error.error)?;
        Ok(bytes)
    }

    fn write_all(&self, kept: &Kept) {
        let begun = self.parts.clock.now();
        let (until, mut bytes, mut copies) = (begun + KEEPING_LIMIT, 0, 0_usize);
        for (partition, follower) in &kept.followers {
            match self.write(*partition, follower, KEPT_BYTES_MAX.saturating_sub(bytes), until) {
                Ok(0) => {}
                Ok(written) => (bytes, copies) = (bytes + written, copies + 1),
                Err(error) => tracing::warn!(%partition, %error, "the copy is not left for the next start"),
            }
        }
        // The names too are to outlast a loss of power; without them copies are made anew.
        let _ = File::open(self.folder).and_then(|folder| folder.sync_all());
        let took = self.parts.clock.now().since(begun);
        tracing::info!(copies, bytes, ?took, folder = %self.folder.display(), "copies left for the next start");
    }

    fn read(&self, file: File, partition: PartitionId, bounds: Bounds) -> Result<Follower, FileError> {
        let mut from = Hashed::new(BufReader::new(file));
        match from.take(MAGIC.len())?[..] {
            ref magic if *magic == MAGIC => {}
            [b'N', b'R', b'C', b'P', format] => return Err(FileError::Format(format)),
            _ => return Err(FileError::Damaged("it does not begin as a copy does")),
        }
        let head: Head =
            postcard::from_bytes(&from.take_sized()?).map_err(|_| FileError::Damaged("its head cannot be read"))?;
        if (head.ring, head.generation, head.partition) != (self.shape.nonce, self.shape.generation, partition) {
            return Err(FileError::Foreign);
        }
        let (service, away) =
            (&*self.parts.service, Duration::from_millis(wall_clock_ms().saturating_sub(head.written_ms)));
        service.clear(partition);
        loop {
            let chunk = from.take_sized()?;
            if chunk.is_empty() {
                break;
            }
            service.copy_chunk(partition, Bytes::from(chunk), away).map_err(FileError::Refused)?;
        }
        let (found, mut written) = (from.hash.digest().to_le_bytes(), [0; 8]);
        from.inner.read_exact(&mut written).map_err(|_| FileError::Damaged("it ends too early"))?;
        if found != written {
            return Err(FileError::Damaged("its checksum differs"));
        }
        Ok(Follower::kept(head.promised, head.at, bounds))
    }

    /// What could be read, and the partitions of which something may have been read that is worth nothing.
    fn read_all(&self) -> (BTreeMap<PartitionId, Follower>, Vec<PartitionId>) {
        let (mut kept, mut refused) = (BTreeMap::new(), Vec::new());
        let bounds = bounds(&self.parts.timing, self.parts.returning.delay, self.parts.bus.max_payload());
        for partition in self.shape.partitions.ids() {
            let path = self.file(partition);
            let Ok(file) = File::open(&path) else { continue };
            match self.read(file, partition, bounds) {
                Ok(follower) => _ = kept.insert(partition, follower),
                Err(error) => {
                    tracing::warn!(%partition, %error, file = %path.display(), "a kept copy is not used: it is made anew");
                    refused.push(partition);
                }
            }
            // Used or useless: from now on the ring knows better.
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, file = %path.display(), "a kept copy cannot be removed");
            }
        }
        if !kept.is_empty() {
            tracing::info!(copies = kept.len(), folder = %self.folder.display(), "copies of the last start are here");
        }
        (kept, refused)
    }
}

#[allow(clippy::disallowed_methods)] // Two starts of this machine share no other clock; what it decides is what is left of times to live.
fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Leaves these copies for the next process, where that is asked for.
pub(in crate::node) async fn save(parts: &Arc<NodeParts>, shape: &RingShape, kept: Kept) {
    let Some(folder) = parts.returning.keep.clone() else { return };
    let (parts, shape) = (Arc::clone(parts), shape.clone());
    let process = parts.process.clone();
    let work = move || match std::fs::create_dir_all(&folder) {
        Ok(()) => Place { folder: &folder, parts: &parts, shape: &shape }.write_all(&kept),
        Err(error) => tracing::warn!(%error, folder = %folder.display(), "no copy is left for the next start"),
    };
    if let Err(error) = process.run_blocking(work).await {
        tracing::error!(%error, "leaving copies for the next start did not end");
    }
}

/// The copies that the last process of this name left.
pub(in crate::node) async fn load(parts: &Arc<NodeParts>, shape: &RingShape) -> Kept {
    let Some(folder) = parts.returning.keep.clone().filter(|_| parts.service.replicates()) else {
        return Kept::default();
    };
    let (own_parts, own_shape) = (Arc::clone(parts), shape.clone());
    let work = move || Place { folder: &folder, parts: &own_parts, shape: &own_shape }.read_all();
    match parts.process.run_blocking(work).await {
        Ok((kept, refused)) => {
            discard(&*parts.service, refused).await;
            Kept::new(shape, kept)
        }
        Err(error) => {
            tracing::error!(%error, "reading kept copies did not end: they are made anew");
            discard(&*parts.service, shape.partitions.ids().collect()).await;
            Kept::default()
        }
    }
}
