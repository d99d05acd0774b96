//! The disk, as the log needs it: positioned reads and writes, explicit durability of bytes and of directory entries.
//!
//! All calls block. What is durable when:
//! * bytes and length of a file: after [`DiskFile::sync_data`] on it;
//! * a created, renamed or removed name: after [`Disk::sync_dir`] on its directory.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::buffer::spare_capacity;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    ReadWrite,
    /// For reading and writing; created when missing, emptied when not.
    Create,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, without its directory. Names that are not UTF-8 are not ours and are not listed.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Held while a process owns a directory; dropping it gives the directory up.
pub trait Lock: Send + Sync + fmt::Debug {}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Fills `into` from `position`, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()>;

    /// `len` bytes from `position` on, or fails as [`DiskFile::read_exact_at`] does.
    fn read_vec_at(&self, len: usize, position: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }

    /// Writes all of `parts`, one after the other, from `position` on. On an error any part of it may have been written.
    fn write_all_at(&self, parts: &[&[u8]], position: u64) -> io::Result<()>;

    /// Makes bytes and length durable (fdatasync). After an error nothing is known about what is durable: do not retry.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes everything durable that was written to any file of this file's file system. Where there is much to do it is far
    /// quicker than one file after another. An error means that something could not be written, whoever wrote it, since this
    /// file was opened or this was last called; as everybody is told once, each caller needs an open file of its own.
    /// [`io::ErrorKind::Unsupported`] where there is no such thing.
    fn sync_file_system(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros) to `len` bytes. What was reserved beyond is given back.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Sets space aside for `len` bytes from `position` on, and changes neither bytes nor length: to write there needs no
    /// free space. Done wholly or not at all; a disk that cannot do it says [`io::ErrorKind::Unsupported`].
    fn reserve(&self, _position: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What may still be written.
    pub usable_bytes: u64,
}

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a directory and its parents; fine when it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames a file or directory, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Whether there is such a file or directory.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Takes the exclusive lock of the directory at `path`; `None` while another process (or handle) holds it. It leaves
    /// no trace, and follows the directory wherever it is moved.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;

    /// How much room there is where `path` is. A disk that does not know says [`io::ErrorKind::Unsupported`].
    fn space(&self, _path: &Path) -> io::Result<Space> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Replaces the file at `path` with `bytes`, durably: afterwards, whatever happens, it has the old bytes or the new.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_added_extension("tmp");
        let file = self.open(&temporary, Open::Create)?;
        file.write_all_at(&[bytes], 0)?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        match path.parent() {
            Some(directory) => self.sync_dir(directory),
            None => Ok(()),
        }
    }

    /// The whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, Open::Read)?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// The operating system's file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => {}
            Open::ReadWrite => {
                options.write(true);
            }
            Open::Create => {
                options.write(true).create(true).truncate(true);
            }
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        // Not what is kept for the superuser.
        Ok(Space { total_bytes: bytes(found.f_blocks), usable_bytes: bytes(found.f_bavail) })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let file = File::open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl Lock for RealLock {}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_exact_at(&self, into: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(into, position)
    }

    /// Fills no memory with zeros first.
    fn read_vec_at(&self, len: usize, position: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = position + bytes.len() as u64;
            if rustix::io::pread(&self.0, spare_capacity(&mut bytes), at)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn write_all_at(&self, parts: &[&[u8]], mut position: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0); // drops empty ones
        while !rest.is_empty() {
            let group = rest.len().min(PARTS_PER_WRITE_MAX);
            let written = rustix::io::pwritev(&self.0, &rest[..group], position)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            position += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    /// Linux tells of errors here since 5.8 (`syncfs(2)`).
    #[cfg(target_os = "linux")]
    fn sync_file_system(&self) -> io::Result<()> {
        match *SYNCFS_TELLS {
            true => Ok(rustix::fs::syncfs(&self.0)?),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, position: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        Ok(fallocate(&self.0, FallocateFlags::KEEP_SIZE, position, len)?)
    }
}

/// Whether this kernel is 5.8 or newer.
#[cfg(target_os = "linux")]
static SYNCFS_TELLS: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
});

/// POSIX promises at least 16 (`IOV_MAX`); Linux takes 1,024.
const PARTS_PER_WRITE_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_parts_are_written_in_order_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), Open::Create).unwrap();
        let bytes: Vec<[u8; 2]> = (0..3000u16).map(u16::to_be_bytes).collect();
        let mut parts: Vec<&[u8]> = bytes.iter().map(|part| &part[..]).collect();
        parts.insert(7, &[]);
        file.write_all_at(&parts, 5).unwrap();
        let mut read = vec![0; 6000];
        file.read_exact_at(&mut read, 5).unwrap();
        assert_eq!(read, bytes.concat());
        assert_eq!(file.len().unwrap(), 6005);
        assert!(file.read_exact_at(&mut read, 6).is_err());
        assert_eq!(file.read_vec_at(6000, 5).unwrap(), bytes.concat());
        assert_eq!(file.read_vec_at(0, 6005).unwrap(), []);
        assert!(file.read_vec_at(6000, 6).is_err());
    }

    #[test]
    fn what_is_reserved_shows_in_no_byte_and_is_given_back() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = RealDisk.open(&path, Open::Create).unwrap();
        file.write_all_at(&[b"bytes"], 0).unwrap();
        match file.reserve(5, 1 << 20) {
            // The file system of this directory cannot do it.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
            reserved => reserved.unwrap(),
        }
        let blocks = || std::fs::metadata(&path).unwrap().blocks();
        assert!(blocks() >= 2048, "{}", blocks());
        assert_eq!(RealDisk.read(&path).unwrap(), b"bytes");
        file.set_len(5).unwrap();
        assert!(blocks() < 100, "{}", blocks());
        assert_eq!(RealDisk.read(&path).unwrap(), b"bytes");
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let held = RealDisk.try_lock(dir.path()).unwrap();
        assert!(held.is_some());
        assert!(RealDisk.try_lock(dir.path()).unwrap().is_none());
        drop(held);
        assert!(RealDisk.try_lock(dir.path()).unwrap().is_some());
        assert!(RealDisk.list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn replace_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.x");
        RealDisk.replace(&path, b"one").unwrap();
        RealDisk.replace(&path, b"two").unwrap();
        assert_eq!(RealDisk.read(&path).unwrap(), b"two");
        assert_eq!(RealDisk.list(dir.path()).unwrap(), [Entry { name: "f.x".into(), is_dir: false }]);
    }
}
