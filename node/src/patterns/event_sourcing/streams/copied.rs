//! The copies of streams that groups keep: what their logs say, and what is got from another member, is done to these.

use std::sync::Arc;

use weft_protocol::{
    Subject,
    consensus::{GroupId, Voters},
};

use super::{COPIES, Hidden, IMPORTS, Opened, Streams, log_name};
use crate::{
    consensus::Mark,
    patterns::event_sourcing::{
        options::{StreamError, StreamOptions, check_name},
        shelf::{CopyOf, Facts, GroupFacts, Kind, Pairs},
    },
    store::{Frontier, Log},
};

/// Under which name a copy is kept.
fn copy_key(group: GroupId, name: &Subject) -> Result<Subject, StreamError> {
    Ok(Subject::reserved(&format!("{COPIES}.{group}.{name}"))?)
}

fn applied_before() -> StreamError {
    StreamError::Conflict("this was applied before".into())
}

impl Streams {
    /// Makes a copy of a stream that a group has agreed to keep, unless this entry of its log was applied before.
    pub(in crate::patterns::event_sourcing) async fn create_copy(
        self: &Arc<Self>,
        group: GroupId,
        entry: u64,
        name: &Subject,
        options: StreamOptions,
        at_ms: u64,
    ) -> Result<(), StreamError> {
        check_name(name)?;
        options.check()?;
        let key = copy_key(group, name)?;
        let _changing = self.changing.lock(&key).await;
        if let Some(known) = self.known().facts.get(&key).and_then(|facts| facts.copy.as_ref()) {
            return Err(match known.entry >= entry {
                true => applied_before(),
                false => StreamError::Exists {
                    name: name.to_string(),
                    owner: self.local_peer(),
                },
            });
        }
        let copy = CopyOf {
            group,
            entry,
            name: name.clone(),
        };
        let facts = self.shelf.create(&key, options, at_ms, Some(copy)).await?;
        self.known().insert(key, facts);
        self.say_again();
        Ok(())
    }

    /// A copy that is kept for a group.
    pub(in crate::patterns::event_sourcing) async fn copy(
        self: &Arc<Self>,
        group: GroupId,
        name: &Subject,
    ) -> Result<Opened, StreamError> {
        self.get_kept(&copy_key(group, name)?, name).await
    }

    /// The same for what an entry of the group's log says, unless the stream was made after it.
    pub(in crate::patterns::event_sourcing) async fn copy_since(
        self: &Arc<Self>,
        group: GroupId,
        entry: u64,
        name: &Subject,
    ) -> Result<Opened, StreamError> {
        let opened = self.copy(group, name).await?;
        match opened.stream.facts().copy {
            Some(copy) if copy.entry < entry => Ok(opened),
            _ => Err(applied_before()),
        }
    }

    /// Changes how much of a copy is kept.
    pub(in crate::patterns::event_sourcing) async fn update_copy(
        self: &Arc<Self>,
        group: GroupId,
        name: &Subject,
        options: StreamOptions,
    ) -> Result<(), StreamError> {
        self.update_kept(&copy_key(group, name)?, name, options).await
    }

    /// Deletes a copy.
    pub(in crate::patterns::event_sourcing) async fn delete_copy(
        self: &Arc<Self>,
        group: GroupId,
        name: &Subject,
    ) -> Result<(), StreamError> {
        self.delete_kept(&copy_key(group, name)?, name).await
    }

    /// Begins again with what is on the disk of a group's streams.
    pub(in crate::patterns::event_sourcing) async fn recover_copies(&self, group: GroupId) {
        let open: Vec<Opened> = self.opened().values().cloned().collect();
        let is_its = |opened: &&Opened| opened.stream.facts().copy.is_some_and(|copy| copy.group == group);
        for opened in open.iter().filter(is_its) {
            opened.stream.recover().await;
        }
    }

    /// Writes down how a consumer of a copy is, or that it is no more.
    pub(in crate::patterns::event_sourcing) async fn write_consumer(
        &self,
        number: u64,
        name: &str,
        state: Option<Vec<u8>>,
        dead: &[(u64, Option<Vec<u8>>)],
    ) -> Result<(), StreamError> {
        match state {
            Some(state) => self.shelf.write_consumer(number, name, state, dead).await,
            None => self.shelf.remove_consumer(number, name).await,
        }
    }

    /// Every group that this node is in.
    pub(in crate::patterns::event_sourcing) async fn groups(&self) -> Result<Vec<(GroupId, GroupFacts)>, StreamError> {
        self.shelf.groups().await
    }

    /// What is known of one.
    pub(in crate::patterns::event_sourcing) async fn group(&self, id: GroupId) -> Result<GroupFacts, StreamError> {
        Ok(self.shelf.group(id).await?.unwrap_or_default())
    }

    async fn edit_group(&self, id: GroupId, edit: impl FnOnce(&mut GroupFacts)) -> Result<(), StreamError> {
        let _one = self.noting.lock().await;
        let mut facts = self.group(id).await?;
        edit(&mut facts);
        self.shelf.put_group(id, &facts).await
    }

    /// Notes that this node is in a group; up to where everything is durable stays as it is.
    pub(in crate::patterns::event_sourcing) async fn put_group(
        &self,
        id: GroupId,
        members: Voters,
        size: Option<u8>,
    ) -> Result<(), StreamError> {
        let edit = |facts: &mut GroupFacts| (facts.members, facts.size) = (members, size);
        self.edit_group(id, edit).await
    }

    /// Whether some of its streams may be of a later time than others.
    pub(in crate::patterns::event_sourcing) async fn put_partial(
        &self,
        id: GroupId,
        is_partial: bool,
    ) -> Result<(), StreamError> {
        self.edit_group(id, |facts| facts.is_partial = is_partial.then_some(true))
            .await
    }

    /// Lets go of everything of a group.
    pub(in crate::patterns::event_sourcing) async fn forget_group(
        self: &Arc<Self>,
        id: GroupId,
    ) -> Result<(), StreamError> {
        let names: Vec<Subject> = {
            let known = self.known();
            let copies = known.facts.values().filter_map(|facts| facts.copy.as_ref());
            copies
                .filter(|copy| copy.group == id)
                .map(|copy| copy.name.clone())
                .collect()
        };
        for name in names {
            self.delete_copy(id, &name).await?;
        }
        self.shelf.remove_group(id).await
    }

    /// Up to where everything of a group is durable.
    pub(in crate::patterns::event_sourcing) async fn mark(&self, id: GroupId) -> Result<Option<Mark>, StreamError> {
        Ok(self.shelf.group(id).await?.and_then(|facts| facts.mark))
    }

    /// It is, up to here.
    pub(in crate::patterns::event_sourcing) async fn put_mark(
        &self,
        id: GroupId,
        mark: Mark,
    ) -> Result<(), StreamError> {
        self.edit_group(id, |facts| {
            // The log before it may be gone: it never goes back.
            if facts
                .mark
                .as_ref()
                .is_none_or(|known| known.last.index <= mark.last.index)
            {
                facts.mark = Some(mark);
            }
        })
        .await
    }

    /// The streams of a group of which this node has copies, each with the entry with which it was made.
    pub(in crate::patterns::event_sourcing) fn copies_of(&self, group: GroupId) -> Vec<(CopyOf, Facts)> {
        let known = self.known();
        let its = known.facts.values().filter_map(|facts| {
            let copy = facts.copy.as_ref().filter(|copy| copy.group == group)?;
            Some((copy.clone(), facts.clone()))
        });
        its.collect()
    }

    /// What is known of a copy, if there is one.
    pub(in crate::patterns::event_sourcing) fn copy_facts(
        &self,
        group: GroupId,
        name: &Subject,
    ) -> Result<Option<Facts>, StreamError> {
        Ok(self.known().facts.get(&copy_key(group, name)?).cloned())
    }

    /// Whether of a stream may be let go what is not to be kept: not while it is got from another member, when it is not known yet who needs it.
    pub(super) fn may_retain(&self, facts: &Facts) -> bool {
        let Some(copy) = &facts.copy else { return true };
        let copies = self.copies.get().and_then(std::sync::Weak::upgrade);
        copies.is_some_and(|copies| copies.is_whole(copy.group))
    }

    /// Entries of a stream, for another member.
    pub(in crate::patterns::event_sourcing) async fn pairs(
        &self,
        number: u64,
        kind: Kind,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<(Pairs, bool), StreamError> {
        self.shelf.pairs(number, kind, after, bytes_max).await
    }

    /// Makes entries of a stream as another member has them.
    pub(in crate::patterns::event_sourcing) async fn mirror(
        &self,
        number: u64,
        kind: Kind,
        after: Option<&[u8]>,
        pairs: Pairs,
        is_all: bool,
    ) -> Result<(), StreamError> {
        self.shelf.mirror(number, kind, after, pairs, is_all).await
    }

    /// A log for a copy that begins later than its stream, under a name that is not shown.
    pub(in crate::patterns::event_sourcing) async fn begin_copy(
        &self,
        copy: CopyOf,
        options: StreamOptions,
        created_ms: u64,
        beginning: Frontier,
    ) -> Result<(Hidden, Log), StreamError> {
        check_name(&copy.name)?;
        options.check()?;
        let _changing = self.changing.lock(&copy_key(copy.group, &copy.name)?).await;
        let hidden = Subject::reserved(&format!("{IMPORTS}.{}.{}", copy.group, copy.name))?;
        let facts = self.shelf.create(&hidden, options, created_ms, Some(copy)).await?;
        let log = self.store.log_from(&log_name(facts.number), beginning).await?;
        Ok((Hidden { name: hidden, facts }, log))
    }

    /// It is all there: it takes the place of what was there before.
    pub(in crate::patterns::event_sourcing) async fn end_copy(
        self: &Arc<Self>,
        hidden: &Hidden,
    ) -> Result<(), StreamError> {
        let copy = hidden.facts.copy.as_ref();
        let copy = copy.ok_or_else(|| StreamError::Corrupt("it is no copy of anything".into()))?;
        let key = copy_key(copy.group, &copy.name)?;
        let _changing = self.changing.lock(&key).await;
        let before = self.known().facts.get(&key).map(|facts| facts.number);
        self.shelf.replace(&hidden.name, &key, &hidden.facts, before).await?;
        self.known().insert(key.clone(), hidden.facts.clone());
        if let Some(opened) = self.opened().remove(&key) {
            opened.stream.go();
            opened.consumers.go();
        }
        self.say_again();
        match before {
            Some(number) => self.sweep(number).await,
            None => Ok(()),
        }
    }
}
