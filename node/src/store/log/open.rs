//! Opens a log: finds its segments, tells a torn tail from damage, and makes the tail ready for the next record.
//!
//! Only the last segment is read; of the others the header and the trailer. A torn tail is cut. Damage is noted and the
//! rest stays readable; when it lies in the last segment the log takes no more records, since the hash tree cannot be
//! continued over records that are gone.

use super::super::error::{Result, StoreError};
use super::super::merkle::Frontier;
use super::super::shared::Shared;
use super::super::state::State;
use super::core::{Core, Segment, Tail, View, corrupt, log_id};
use super::read::Cache;
use super::record::{LogId, encode_mark};
use super::registry::{self, Entry};
use super::segment;
use super::survey::{Question, Survey, survey};
use crate::platform::disk::{DiskFile, OpenMode};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::watch;

/// The folder of all logs.
pub(in crate::store) const DIR: &str = "logs";
/// How much of an unproved tail is written again at once.
const REWRITE_STEP_BYTES: u64 = 1 << 20;

/// Opens a log, or makes it where a beginning is given; and what is to be noted of it, if nothing is. Blocks.
pub(in crate::store) fn open(
    shared: Arc<Shared>,
    state: Arc<State>,
    name: &str,
    beginning: Option<&Frontier>,
) -> Result<(Core, Option<Entry>)> {
    let dir = shared.dir.join(DIR).join(name);
    let entry = registry::get(&state, name)?;
    let there = shared.disk.exists(&dir).map_err(StoreError::io("look for", &dir))?;
    let id = log_id(&shared.options.owner, name);
    let opening = Opening {
        shared: &shared,
        name,
        dir: dir.clone(),
        id,
        damage: Vec::new(),
    };
    let firsts = if there { opening.segments_on_disk()? } else { Vec::new() };
    let (view, tail) = match (entry, firsts.first(), beginning) {
        (None, None, None) => return Err(StoreError::NoSuchLog { log: name.to_string() }),
        (None, None, Some(beginning)) => opening.create(beginning)?,
        (Some(entry), None, _) => return Err(opening.all_lost(entry)),
        (_, Some(first_seq), _) => {
            let known = entry.unwrap_or(Entry {
                first_seq: *first_seq,
                durable_seq: *first_seq,
            });
            let firsts = opening.without_leftovers(firsts, known.first_seq)?;
            opening.recover(&firsts, known)?
        }
    };
    let unnoted = entry.is_none().then(|| Entry {
        first_seq: view.first_seq(),
        durable_seq: view.next_seq,
    });
    for damage in &view.damage {
        tracing::error!(target: "weft::store", log = name, %damage, "the log is damaged");
    }
    let grown = watch::Sender::new(view.next_seq);
    let (tail, view) = (Mutex::new(tail), RwLock::new(view));
    let core = Core {
        name: name.to_string(),
        shared,
        state,
        dir,
        id,
        tail,
        view,
        cache: Mutex::new(Cache::default()),
        grown,
    };
    Ok((core, unnoted))
}

struct Opening<'a> {
    shared: &'a Shared,
    name: &'a str,
    dir: PathBuf,
    id: LogId,
    damage: Vec<StoreError>,
}

impl Opening<'_> {
    /// The first records of the segments in the folder, rising.
    fn segments_on_disk(&self) -> Result<Vec<u64>> {
        let names = self
            .shared
            .disk
            .list(&self.dir)
            .map_err(StoreError::io("list", &self.dir))?;
        Ok(names.iter().filter_map(|name| segment::parse_file_name(name)).collect())
    }

    fn create(&self, beginning: &Frontier) -> Result<(View, Tail)> {
        self.shared.sound()?;
        let disk = &self.shared.disk;
        disk.create_dir_all(&self.dir)
            .map_err(StoreError::io("make the folder", &self.dir))?;
        let logs = self.shared.dir.join(DIR);
        disk.sync_dir(&logs).map_err(StoreError::io("sync the folder", &logs))?;
        let (file, path) = create_segment(self.shared, &self.dir, self.id, beginning)?;
        let (segment, tail, rootless) = fresh(file, path, beginning.clone());
        let view = View {
            next_seq: tail.next_seq,
            frontier: tail.frontier.clone(),
            segments: vec![segment],
            damage: Vec::new(),
            rootless,
        };
        Ok((view, tail))
    }

    fn all_lost(&self, entry: Entry) -> StoreError {
        let lost = entry.durable_seq.checked_sub(1).filter(|last| *last >= entry.first_seq);
        corrupt(
            self.name,
            &self.dir,
            0,
            "no segment of the log is there",
            lost.map(|last| (entry.first_seq, last)),
        )
    }

    /// Removes segments that lie wholly before the first record kept: their removal had begun.
    fn without_leftovers(&self, firsts: Vec<u64>, first_seq: u64) -> Result<Vec<u64>> {
        let kept = firsts.partition_point(|first| *first <= first_seq).saturating_sub(1);
        if kept > 0 {
            self.shared.sound()?;
        }
        for first in &firsts[..kept] {
            let path = self.dir.join(segment::file_name(*first));
            self.shared
                .disk
                .remove_file(&path)
                .map_err(StoreError::io("remove", &path))?;
        }
        Ok(firsts[kept..].to_vec())
    }

    fn recover(mut self, firsts: &[u64], known: Entry) -> Result<(View, Tail)> {
        if let Some(first) = firsts.first().filter(|first| **first > known.first_seq) {
            self.note(
                *first,
                0,
                "the segments before it are missing",
                Some((known.first_seq, first - 1)),
            );
        }
        let mut segments = Vec::with_capacity(firsts.len());
        for pair in firsts.windows(2) {
            segments.push(self.sealed(pair[0], pair[1])?);
        }
        let last = *firsts.last().expect("invariant: a log that is opened has a segment");
        let before = segments.last().cloned();
        let (segment, tail, rootless) = self.last(last, before.as_ref(), known)?;
        segments.push(segment);
        let view = View {
            segments,
            next_seq: tail.next_seq,
            damage: self.damage,
            frontier: tail.frontier.clone(),
            rootless,
        };
        Ok((view, tail))
    }

    /// A segment that another one follows.
    fn sealed(&mut self, first_seq: u64, following: u64) -> Result<Segment> {
        let (file, path) = self.open_segment(first_seq, OpenMode::READ)?;
        let failed = |action| StoreError::io(action, &path);
        let header = segment::read_header(&*file, self.id, first_seq).map_err(failed("read"))?;
        let trailer = segment::read_trailer(&*file, self.id, first_seq).map_err(failed("read"))?;
        let data_end = match trailer {
            Some(trailer) => trailer.data_end,
            None => file.len().map_err(failed("read"))?,
        };
        let next_seq = trailer.map_or(following, |trailer| trailer.next_seq.min(following));
        if next_seq < following {
            self.note(
                first_seq,
                data_end,
                "the segments behind it are missing",
                Some((next_seq, following - 1)),
            );
        }
        let reason = match (&header, trailer) {
            (Err(reason), _) => Some((0, reason.clone())),
            (Ok(_), None) => Some((data_end, "its footer is damaged".to_string())),
            (Ok(_), Some(_)) => None,
        };
        if let Some((offset, reason)) = reason {
            // What exactly is lost takes reading it; that happens for damaged segments only.
            let survey = self.survey(&*file, &path, first_seq, header.ok(), data_end, following)?;
            self.note_gaps(first_seq, &survey, (offset, &reason));
        }
        Ok(Segment {
            first_seq,
            next_seq,
            path,
            data_end,
            trailer,
            index: Arc::default(),
        })
    }

    /// The last segment, which may still be written.
    fn last(
        &mut self,
        first_seq: u64,
        before: Option<&Segment>,
        known: Entry,
    ) -> Result<(Segment, Tail, Option<StoreError>)> {
        let (file, path) = self.open_segment(first_seq, OpenMode::WRITE)?;
        let failed = |action| StoreError::io(action, &path);
        let file_bytes = file.len().map_err(failed("read"))?;
        let header = segment::read_header(&*file, self.id, first_seq).map_err(failed("read"))?;
        // The power may have gone while the footer was written; it counts only when all of it is there.
        let trailer = segment::read_whole_trailer(&*file, self.id, first_seq).map_err(failed("read"))?;
        if header.is_err()
            && file_bytes <= segment::header_bytes(first_seq)
            && known.durable_seq <= first_seq
            && let Some(frontier) = self.frontier_before(first_seq, before)?
        {
            // A header is synced before the first record is written, so the file was being made when the power went.
            let (file, path) = create_segment(self.shared, &self.dir, self.id, &frontier)?;
            return Ok(fresh(file, path, frontier));
        }
        let data_end = trailer.map_or(file_bytes, |trailer| trailer.data_end);
        let acknowledged = trailer
            .map_or(first_seq, |trailer| trailer.next_seq)
            .max(known.durable_seq);
        let reason = header.as_ref().err().cloned();
        let survey = self.survey(&*file, &path, first_seq, header.ok(), data_end, acknowledged)?;
        let noted = self.damage.len();
        if let Some(reason) = &reason {
            self.note_gaps(first_seq, &survey, (0, reason));
        } else if !survey.gaps.is_empty() {
            self.note_gaps(
                first_seq,
                &survey,
                (data_end, "its records do not match their checksums"),
            );
        }
        let refused = self.damage.get(noted).cloned();
        if refused.is_none() && trailer.is_none() {
            self.make_ready(&*file, &path, &survey)?;
        }
        let file_bytes = file.len().map_err(failed("read"))?;
        let segment = Segment {
            first_seq,
            next_seq: survey.next_seq,
            path: path.clone(),
            data_end: survey.end,
            trailer,
            index: Arc::new(survey.index),
        };
        let tail = Tail {
            file: trailer.is_none().then_some(file),
            path,
            first_seq,
            next_seq: survey.next_seq,
            end: survey.end,
            file_bytes,
            frontier: survey.frontier.unwrap_or_default(),
            refused: refused.clone(),
            buffer: Vec::new(),
        };
        Ok((segment, tail, refused))
    }

    /// Cuts what is torn, and makes what may be in the system's memory only durable before anybody is told of it.
    fn make_ready(&self, file: &dyn DiskFile, path: &Path, survey: &Survey) -> Result<()> {
        let failed = |action| StoreError::io(action, path);
        if survey.torn_bytes > 0 || survey.dropped > 0 {
            tracing::warn!(
                target: "weft::store", log = self.name, segment = %path.display(), offset_bytes = survey.end,
                torn_bytes = survey.torn_bytes, dropped_records = survey.dropped, next_seq = survey.next_seq,
                "cut a torn tail that was never acknowledged"
            );
            self.shared.sound()?;
            file.set_len(survey.end).map_err(failed("cut"))?;
        } else if survey.marked {
            return Ok(());
        }
        self.shared.sound()?;
        // After a sync that failed the system may show pages that never reached the disk; writing them once more makes
        // the sync below mean what it says.
        let mut at = survey.group_start;
        while at < survey.end {
            let mut bytes = vec![0; (survey.end - at).min(REWRITE_STEP_BYTES) as usize];
            file.read_exact_at(&mut bytes, at).map_err(failed("read"))?;
            file.write_at(&bytes, at).map_err(failed("write"))?;
            at += bytes.len() as u64;
        }
        file.sync_data().map_err(failed("sync"))?;
        file.write_at(&encode_mark(self.id, survey.next_seq), survey.end)
            .map_err(failed("write"))
    }

    fn frontier_before(&self, first_seq: u64, before: Option<&Segment>) -> Result<Option<Frontier>> {
        if first_seq == 0 {
            return Ok(Some(Frontier::default()));
        }
        let Some((segment, trailer)) = before.and_then(|segment| segment.trailer.map(|trailer| (segment, trailer)))
        else {
            return Ok(None);
        };
        let read = self.shared.disk.open(&segment.path, OpenMode::READ);
        let footer = read.and_then(|file| segment::read_footer(&*file, &trailer));
        let footer = footer.map_err(StoreError::io("read", &segment.path))?;
        Ok(footer
            .map(|footer| footer.frontier)
            .filter(|frontier| frontier.count() == first_seq))
    }

    fn survey(
        &self,
        file: &dyn DiskFile,
        path: &Path,
        first_seq: u64,
        frontier: Option<Frontier>,
        end: u64,
        acknowledged: u64,
    ) -> Result<Survey> {
        let start = segment::header_bytes(first_seq);
        survey(Question {
            file,
            id: self.id,
            frontier,
            first_seq,
            start,
            end,
            acknowledged,
        })
        .map_err(StoreError::io("read", path))
    }

    fn open_segment(&self, first_seq: u64, mode: OpenMode) -> Result<(Arc<dyn DiskFile>, PathBuf)> {
        let path = self.dir.join(segment::file_name(first_seq));
        let file = self
            .shared
            .disk
            .open(&path, mode)
            .map_err(StoreError::io("open", &path))?;
        Ok((file, path))
    }

    fn note_gaps(&mut self, first_seq: u64, survey: &Survey, otherwise: (u64, &str)) {
        if survey.gaps.is_empty() {
            self.note(first_seq, otherwise.0, otherwise.1, None);
        }
        for gap in &survey.gaps {
            self.note(first_seq, gap.offset, otherwise.1, gap.lost);
        }
    }

    fn note(&mut self, segment_seq: u64, offset: u64, reason: &str, lost: Option<(u64, u64)>) {
        let path = self.dir.join(segment::file_name(segment_seq));
        self.damage.push(corrupt(self.name, &path, offset, reason, lost));
    }
}

fn fresh(file: Arc<dyn DiskFile>, path: PathBuf, frontier: Frontier) -> (Segment, Tail, Option<StoreError>) {
    let first_seq = frontier.count();
    let end = segment::header_bytes(first_seq);
    let segment = Segment {
        first_seq,
        next_seq: first_seq,
        path: path.clone(),
        data_end: end,
        trailer: None,
        index: Arc::default(),
    };
    let tail = Tail {
        file: Some(file),
        path,
        first_seq,
        next_seq: first_seq,
        end,
        file_bytes: end,
        frontier,
        refused: None,
        buffer: Vec::new(),
    };
    (segment, tail, None)
}

/// Makes the segment that begins where the frontier ends; its name and header are durable when this returns.
pub(super) fn create_segment(
    shared: &Shared,
    dir: &Path,
    id: LogId,
    frontier: &Frontier,
) -> Result<(Arc<dyn DiskFile>, PathBuf)> {
    let path = dir.join(segment::file_name(frontier.count()));
    let failed = |action| StoreError::io(action, &path);
    let file = shared.disk.open(&path, OpenMode::CREATE).map_err(failed("make"))?;
    file.set_len(0).map_err(failed("cut"))?;
    file.write_at(&segment::encode_header(id, frontier), 0)
        .map_err(failed("write"))?;
    file.sync_data().map_err(failed("sync"))?;
    shared
        .disk
        .sync_dir(dir)
        .map_err(StoreError::io("sync the folder", dir))?;
    Ok((file, path))
}
