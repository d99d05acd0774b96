//! The members of a group, with what is counted of them so that no request looks at all of them.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use super::member::Member;

/// By id. To be read like a map; whatever changes goes through here.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: BTreeMap<String, Member>,
    /// How many have a join that waits.
    joining: usize,
    /// How many support a protocol of that name.
    supporters: BTreeMap<String, usize>,
    /// No later than when the first session ends.
    due: Option<Duration>,
}

impl Deref for Members {
    type Target = BTreeMap<String, Member>;

    fn deref(&self) -> &Self::Target {
        &self.by_id
    }
}

impl Members {
    pub(super) fn joining(&self) -> usize {
        self.joining
    }

    pub(super) fn all_support(&self, protocol: &str) -> bool {
        self.supporters.get(protocol).copied().unwrap_or(0) == self.by_id.len()
    }

    /// No later than when the first session ends.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    pub(super) fn insert(&mut self, id: String, member: Member) {
        self.remove(&id);
        self.joining += usize::from(member.join.is_some());
        for protocol in member.protocol_names() {
            *self.supporters.entry(protocol.to_owned()).or_default() += 1;
        }
        wake_at(&mut self.due, member.session_deadline);
        self.by_id.insert(id, member);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.by_id.remove(id)?;
        self.joining -= usize::from(member.join.is_some());
        for protocol in member.protocol_names() {
            let count = self.supporters.get_mut(protocol).expect("it was counted when the member came");
            *count -= 1;
            if *count == 0 {
                self.supporters.remove(protocol);
            }
        }
        Some(member)
    }

    /// Changes a member, but for the protocols that it supports.
    pub(super) fn change<T>(&mut self, id: &str, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let member = self.by_id.get_mut(id)?;
        self.joining -= usize::from(member.join.is_some());
        let changed = change(member);
        self.joining += usize::from(member.join.is_some());
        wake_at(&mut self.due, member.session_deadline);
        Some(changed)
    }

    /// The same for each of them.
    pub(super) fn change_all(&mut self, mut change: impl FnMut(&str, &mut Member)) {
        self.joining = 0;
        for (id, member) in &mut self.by_id {
            change(id, member);
            self.joining += usize::from(member.join.is_some());
        }
        self.find_due();
    }

    /// Looks when the first session ends: those that have gone on are still counted.
    pub(super) fn find_due(&mut self) {
        self.due = self.by_id.values().filter_map(|member| member.session_deadline).min();
    }

    /// Whether all of it is as if it were counted now.
    pub(super) fn is_counted(&self) -> bool {
        let mut now = Self::default();
        self.by_id.iter().for_each(|(id, member)| now.insert(id.clone(), member.clone()));
        let is_early = now.due.is_none_or(|first| self.due.is_some_and(|due| due <= first));
        (self.joining, &self.supporters) == (now.joining, &now.supporters) && is_early
    }
}

/// Makes `due` no later than `deadline`.
pub(super) fn wake_at(due: &mut Option<Duration>, deadline: Option<Duration>) {
    *due = (*due).into_iter().chain(deadline).min();
}
