//! redb's view of our disk: the live file, and a picture of it that is never written back.

use crate::platform::disk::DiskFile;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// redb keeps everything it overwrites in place within this many first bytes; all else is copy on write.
const HEADER_BYTES: usize = 4096;
const PAGE_BYTES: u64 = 4096;

/// The first bytes of the file, from which the rest is found.
pub(super) type Header = Box<[u8; HEADER_BYTES]>;

/// The file redb works on. It remembers the header as of the last sync that succeeded, and the first failure.
#[derive(Debug)]
pub(super) struct LiveBackend {
    file: Arc<dyn DiskFile>,
    header: Mutex<Headers>,
}

#[derive(Debug)]
struct Headers {
    written: Header,
    durable: Header,
    failure: Option<Failure>,
    /// No byte of the file is changed any more, whatever redb still wants to tidy up.
    sealed: bool,
}

/// The first call on the file that failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) action: &'static str,
    pub(super) source: Arc<io::Error>,
}

impl LiveBackend {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> io::Result<Arc<LiveBackend>> {
        let mut header = Box::new([0; HEADER_BYTES]);
        file.read_at(&mut header[..], 0)?;
        let headers = Headers {
            written: header.clone(),
            durable: header,
            failure: None,
            sealed: false,
        };
        Ok(Arc::new(LiveBackend {
            file,
            header: Mutex::new(headers),
        }))
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// Refuses every further change of the file through this backend.
    pub(super) fn seal(&self) {
        self.lock().sealed = true;
    }

    fn changeable(&self) -> io::Result<()> {
        if self.lock().sealed {
            Err(io::Error::other("the state takes no more writes"))
        } else {
            Ok(())
        }
    }

    /// A picture of the file as of the last sync that succeeded.
    pub(super) fn picture(&self) -> io::Result<Picture> {
        Picture::new(Arc::clone(&self.file), self.lock().durable.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Headers> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T>(&self, action: &'static str, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            let source = Arc::new(error);
            self.lock().failure.get_or_insert(Failure {
                action,
                source: Arc::clone(&source),
            });
            io::Error::new(kind, source)
        })
    }
}

/// What redb is given; the store keeps the backend itself.
#[derive(Debug)]
pub(super) struct Live(pub(super) Arc<LiveBackend>);

impl StorageBackend for Live {
    fn len(&self) -> io::Result<u64> {
        self.0.note("ask for the length of", self.0.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.note("read", self.0.file.read_exact_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.changeable()?;
        self.0.note("resize", self.0.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.changeable()?;
        self.0.note("sync", self.0.file.sync_data())?;
        let mut headers = self.0.lock();
        headers.durable = headers.written.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.changeable()?;
        self.0.note("write", self.0.file.write_at(data, offset))?;
        if let Some(start) = usize::try_from(offset).ok().filter(|start| *start < HEADER_BYTES) {
            let count = data.len().min(HEADER_BYTES - start);
            self.0.lock().written[start..start + count].copy_from_slice(&data[..count]);
        }
        Ok(())
    }
}

/// The last durable state of a file; what redb writes to it stays in memory.
///
/// It serves reads after the live file failed, and it lets the file be checked without being changed.
#[derive(Debug)]
pub(super) struct Picture {
    file: Arc<dyn DiskFile>,
    overlay: Mutex<Overlay>,
}

#[derive(Debug)]
struct Overlay {
    len: u64,
    /// How much of the file shows through; a cut hides the rest for good.
    file_bytes: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES as usize]>>,
}

impl Picture {
    fn new(file: Arc<dyn DiskFile>, header: Header) -> io::Result<Picture> {
        let file_bytes = file.len()?;
        let pages = if file_bytes == 0 {
            BTreeMap::new()
        } else {
            BTreeMap::from([(0, header)])
        };
        Ok(Picture {
            file,
            overlay: Mutex::new(Overlay {
                len: file_bytes,
                file_bytes,
                pages,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Overlay> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn page_of_file(file: &dyn DiskFile, file_bytes: u64, number: u64) -> io::Result<Box<[u8; PAGE_BYTES as usize]>> {
    let mut page = Box::new([0; PAGE_BYTES as usize]);
    let start = number * PAGE_BYTES;
    let count = file_bytes.saturating_sub(start).min(PAGE_BYTES) as usize;
    file.read_exact_at(&mut page[..count], start)?;
    Ok(page)
}

/// Calls `each(page number, offset in the page, range of the bytes)` for every page the bytes touch.
fn for_each_page(
    offset: u64,
    count: usize,
    mut each: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < count {
        let position = offset + done as u64;
        let within = (position % PAGE_BYTES) as usize;
        let part = (PAGE_BYTES as usize - within).min(count - done);
        each(position / PAGE_BYTES, within, done..done + part)?;
        done += part;
    }
    Ok(())
}

impl StorageBackend for Picture {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let overlay = self.lock();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > overlay.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let of_file = overlay.file_bytes.saturating_sub(offset).min(out.len() as u64) as usize;
        self.file.read_exact_at(&mut out[..of_file], offset)?;
        out[of_file..].fill(0);
        for_each_page(offset, out.len(), |number, within, part| {
            if let Some(page) = overlay.pages.get(&number) {
                let count = part.len();
                out[part].copy_from_slice(&page[within..within + count]);
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut overlay = self.lock();
        if len < overlay.len {
            overlay.pages.split_off(&len.div_ceil(PAGE_BYTES));
            let within = (len % PAGE_BYTES) as usize;
            if let Some(page) = overlay.pages.get_mut(&(len / PAGE_BYTES)) {
                page[within..].fill(0);
            }
        }
        overlay.file_bytes = overlay.file_bytes.min(len);
        overlay.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut overlay = self.lock();
        overlay.len = overlay.len.max(offset + data.len() as u64);
        for_each_page(offset, data.len(), |number, within, part| {
            if !overlay.pages.contains_key(&number) {
                let page = page_of_file(&*self.file, overlay.file_bytes, number)?;
                overlay.pages.insert(number, page);
            }
            let page = overlay.pages.get_mut(&number).expect("invariant: inserted just above");
            let count = part.len();
            page[within..within + count].copy_from_slice(&data[part]);
            Ok(())
        })
    }
}
