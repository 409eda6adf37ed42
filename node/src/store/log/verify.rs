//! Checks every byte of a log, and the hash tree across its segments.

use super::super::error::{Result, StoreError};
use super::super::merkle::{Frontier, leaf_hash};
use super::super::report::{FileReport, Finding};
use super::core::{Core, Segment};
use super::record::RECORD_HEADER_BYTES;
use super::segment;
use super::survey::{Question, survey};
use super::window::Window;
use crate::platform::disk::OpenMode;

/// Adds what opening the log found and reading it did not: a missing file, a trailer that is none any more.
fn tell(reports: &mut Vec<FileReport>, finding: Finding) {
    let same = |other: &Finding| other.file == finding.file && other.lost_records == finding.lost_records;
    if reports.iter().flat_map(|report| &report.findings).any(same) {
        return;
    }
    match reports.iter_mut().find(|report| report.path == finding.file) {
        Some(report) => report.findings.push(finding),
        None => reports.push(FileReport {
            path: finding.file.clone(),
            bytes: 0,
            items: 0,
            findings: vec![finding],
        }),
    }
}

impl Core {
    /// Reads the whole log; one report for each segment. Appends go on meanwhile. Blocks.
    pub(in crate::store) fn verify(&self) -> Result<Vec<FileReport>> {
        let (segments, known) = {
            let view = self.read_view();
            (view.segments.clone(), view.damage.clone())
        };
        let mut reports = Vec::with_capacity(segments.len());
        let mut before = None;
        for segment in &segments {
            let (report, frontier) = self.verify_segment(segment, before)?;
            before = frontier;
            reports.push(report);
        }
        for damage in known {
            tell(&mut reports, Finding::of(&damage));
        }
        Ok(reports)
    }

    fn verify_segment(&self, segment: &Segment, before: Option<Frontier>) -> Result<(FileReport, Option<Frontier>)> {
        let failed = |action| StoreError::io(action, &segment.path);
        let file = match self.shared.disk.open(&segment.path, OpenMode::READ) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self.segment_missing(segment)),
            Err(error) => return Err(failed("open")(error)),
        };
        let mut report = FileReport {
            path: segment.path.clone(),
            bytes: file.len().map_err(failed("read"))?,
            items: 0,
            findings: Vec::new(),
        };
        let mut find = |offset: u64, reason: &str, lost| {
            report
                .findings
                .push(Finding::of(&self.corrupt(&segment.path, offset, reason, lost)));
        };
        let header = segment::read_header(&*file, self.id, segment.first_seq).map_err(failed("read"))?;
        if let Err(reason) = &header {
            find(0, reason, None);
        }
        let header = header.ok();
        if before.is_some() && header.is_some() && before != header {
            find(
                0,
                "its header does not continue the hash tree of the segment before it",
                None,
            );
        }
        let question = Question {
            file: &*file,
            id: self.id,
            frontier: header.or(before),
            first_seq: segment.first_seq,
            start: segment::header_bytes(segment.first_seq),
            end: segment.data_end,
            acknowledged: segment.next_seq,
        };
        let survey = survey(question).map_err(failed("read"))?;
        for gap in &survey.gaps {
            find(gap.offset, "a record does not match its checksum", gap.lost);
        }
        if let Some(trailer) = &segment.trailer {
            let footer = segment::read_footer(&*file, trailer).map_err(failed("read"))?;
            let again = segment::read_trailer(&*file, self.id, segment.first_seq).map_err(failed("read"))?;
            let tree = footer.as_ref().map(|footer| &footer.frontier);
            if again.as_ref() != Some(trailer) || footer.is_none() {
                find(segment.data_end, "its footer is damaged", None);
            } else if survey.frontier.is_some() && survey.frontier.as_ref() != tree {
                find(
                    segment.data_end,
                    "its records do not add up to the hash in its footer",
                    None,
                );
            }
        }
        if survey.gaps.is_empty()
            && let Some((seq, offset)) = self.first_false_leaf(&*file, segment).map_err(failed("read"))?
        {
            find(offset, "a record does not match its leaf hash", Some((seq, seq)));
        }
        report.items = survey.records;
        Ok((report, survey.frontier))
    }

    fn segment_missing(&self, segment: &Segment) -> (FileReport, Option<Frontier>) {
        let lost = segment.next_seq.checked_sub(1).map(|last| (segment.first_seq, last));
        let finding = Finding::of(&self.corrupt(&segment.path, 0, "the file is missing", lost));
        // Retention may have removed it since the check began.
        let removed = self.read_view().first_seq() > segment.first_seq;
        let findings = if removed { Vec::new() } else { vec![finding] };
        (
            FileReport {
                path: segment.path.clone(),
                bytes: 0,
                items: 0,
                findings,
            },
            None,
        )
    }

    /// The first record whose data does not have the hash that stands beside it.
    fn first_false_leaf(
        &self,
        file: &dyn crate::platform::disk::DiskFile,
        segment: &Segment,
    ) -> std::io::Result<Option<(u64, u64)>> {
        let mut window = Window::new(file, self.id, segment.data_end);
        let mut offset = segment::header_bytes(segment.first_seq);
        for seq in segment.first_seq..segment.next_seq {
            let Some(header) = window.record(offset)? else { break };
            let data = window.bytes(offset + RECORD_HEADER_BYTES as u64, header.data_bytes)?;
            if leaf_hash(data) != header.leaf {
                return Ok(Some((seq, offset)));
            }
            offset += header.record_bytes() as u64;
        }
        Ok(None)
    }
}
